"""How `sde-sgd diagnose` tells what it found: one page, a table on the terminal, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from sde_sgd._console import Console
from sde_sgd.figures import plot_spectrum
from sde_sgd.report import Report, number
from sde_sgd.results import Run, provenance

from ._svag import alike

if TYPE_CHECKING:
    from .diagnose import Question

_NEAR = 3.0  # predicted deviations (root mean square): 1 in a steady state, above 3 in 0.3 % of the cases at most
_TEMPERATURE = {
    "with_replacement": "η/(2b(1−μ))",
    "without_replacement": "η/(2b(1−μ))·(N−b)/(N−1)",
    "reshuffling": "η/(2b(1−μ)) of batches with replacement; reshuffling has none",
}
_DRAWN = {
    "with_replacement": "with replacement",
    "without_replacement": "without replacement",
    "reshuffling": "by reshuffling, the mean over an epoch",
}
_PLAIN = "Plain SGD, at the step η/(1−μ) and with the batches of SVAG, "


def verdicts(groups: Mapping[str, xr.Dataset]) -> list[tuple[bool | None, str]]:
    """Whether each hypothesis of the theory holds, in a sentence with its numbers; None where it cannot be told."""
    local = groups["/local"]
    found = [*_of_the_step(local), _of_the_minimum(local)]
    return [*found, _of_the_equation(groups["/svag"])] if "/svag" in groups else found


def _of_the_step(local: xr.Dataset) -> list[tuple[bool | None, str]]:
    eta_h, limit = float(local["sharpness"]), float(local["limit"])
    first = f"η·λ_max = {number(eta_h)} "
    if eta_h <= 0:
        return [(False, first + "is not positive: no direction is stable at constant curvature.")]
    if eta_h >= limit:
        text = f"is not below its limit 2(1+μ) = {number(limit)}: the steepest direction is not stable at constant "
        return [(False, first + text + "curvature.")]
    small, ratio = eta_h < 0.1 * limit, 1 / (1 - eta_h / limit)
    return [
        (True, first + f"is below its limit 2(1+μ) = {number(limit)}: the steepest direction is stable."),
        (
            small,
            first + f"is {'small' if small else 'not small'} against that limit: with independent batches the variance "
            f"along that direction is 1/(1 − ηλ/2(1+μ)) = {ratio:.2f} times that of the SDE.",
        ),
    ]


def _of_the_minimum(local: xr.Dataset) -> tuple[bool | None, str]:
    away, negative = float(local["away"]), int(local["negative"])
    if away != away:
        return False, f"There is no steady state to be near: {local.attrs['no_steady_state']}."
    near = away <= _NEAR and not negative
    text = (
        f"The weights are {'near' if near else 'not near'} a minimum: that of the quadratic is {number(away)} "
        f"predicted deviations away (root mean square over {local.sizes['direction']} directions, 1 in the steady "
        f"state); negative curvatures in the joint space: {negative}. "
    )
    text += (
        "The predicted variances and current are for here."
        if near
        else "The predicted variances and current are of a steady state, and not for here: train further."
    )
    if local.attrs["batch_norm"]:
        text += " Batch norm is frozen in all this; with the statistics of batches the minimum may be another."
    return near, text


def _of_the_equation(test: xr.Dataset) -> tuple[bool | None, str]:
    order, steps, runs = test.attrs["l"], test.attrs["steps"], test.sizes["replica"]
    gone = {str(kind): int(test["diverged"].sel(kind=kind)) for kind in test["kind"].values}
    if any(gone.values()):
        counts = f"Of {runs} runs each, {gone['sgd']} of SGD and {gone['svag']} of SVAG (l = {order}) diverged within "
        if gone["sgd"]:
            return False, f"{counts}{steps} steps: what diverges has no law that the SDE could describe."
        return None, f"{counts}{steps} steps: SVAG is no stand-in for the SDE here, so take a larger l."
    worst = max(abs(float(test[f"{name}_gap"])) for name in ("loss", "distance"))
    resolution = max(float(test[f"{name}_resolution"]) for name in ("loss", "distance"))
    valid = alike(test)
    text = (
        f"SGD and SVAG (l = {order}) end {steps} steps with {_pair(test, 'sgd', '')}. "
        + {
            True: "In these means the SDE describes this run",
            False: "The SDE does not describe this run",
            None: "Whether the SDE describes this run cannot be told from so few replicas",
        }[valid]
    )
    text += (
        f": the larger difference is {100 * worst:.1f} % (of the distance, or of the loss or its change); "
        f"{100 * resolution:.1f} % would be three standard errors, and a tenth is the most that counts as small."
    )
    if "plain" in gone and valid is False:
        plain = alike(test, "plain_")
        text += (
            f" {_PLAIN}"
            + {
                True: "ends as SVAG does: it is the momentum or the reshuffling that makes the difference.",
                False: f"does not end as SVAG does either ({_pair(test, 'plain', 'plain_')}): the step is too large.",
                None: "has not enough replicas to tell whether the step or the rest makes the difference.",
            }[plain]
        )
    return valid, text


def _pair(test: xr.Dataset, kind: str, prefix: str) -> str:
    """The two means of a kind of run beside those of SVAG."""
    words = {"loss": "mean loss", "distance": "mean distance from the start"}
    return ", ".join(
        f"{what} {number(float(test[f'{name}_{kind}']))} and {number(float(test[f'{name}_svag']))} "
        f"({float(test[f'{prefix}{name}_z']):+.1f} standard errors)"
        for name, what in words.items()
    )


def rows(groups: Mapping[str, xr.Dataset], momentum: float, sampling: str) -> list[tuple[str, Any, str]]:
    """Quantity, value, what it means."""
    local = groups["/local"]
    current = float(local["current"])
    table = [
        ("d, N", f"{local.attrs['parameters']}, {local.attrs['samples']}", "weights, training samples"),
        ("f", float(groups["/training"]["loss"]), "loss on the training samples, without decay"),
        ("T", float(local["temperature"]), _TEMPERATURE[sampling]),
        ("|∇f|", float(local["gradient"]), "full gradient, without decay"),
        ("tr D", float(local["trace"]), "variance of the gradient of one sample"),
        ("√(tr C)/|∇f|", float(local["noise_to_signal"]), "noise over signal of one step, C of its batch"),
        ("η·λ_max", float(local["sharpness"]), f"decay in it; stable below {2 * (1 + momentum):g}, an SDE for ≪ 1"),
        ("|HD−DH|/|HD|", float(local["commutator"]), "0: no current at a minimum; in the joint top space"),
        ("share of tr D", float(local["inside"]), "in that space"),
        ("|(1−P)HP|/|HP|", float(local["coupling"]), "of H leading out of that space"),
        ("negative curvatures", int(local["negative"]), "in that space: not a minimum if there are any"),
    ]
    if current == current:
        table.append(("|TQ|/(T|D|)", current, "predicted current against the noise, in a steady state"))
    else:
        table.append(("|TQ|/(T|D|)", None, local.attrs["no_steady_state"]))
    return table


def page(run: Run, question: Question, groups: dict[str, xr.Dataset]) -> None:
    """Write result.nc, report.html and the figure."""
    local = groups["/local"]
    report = Report(
        f"SGD on {question.name}",
        f"η = {question.learning_rate:g}, b = {question.batch_size}, μ = {question.momentum:g}, weight decay "
        f"{question.weight_decay:g}, mini-batches drawn {_DRAWN[question.sampling].partition(',')[0]}, "
        f"on {question.data}, after {question.epochs} epochs.",
    )
    report.headline(float(local["temperature"]), f"temperature T = {_TEMPERATURE[question.sampling]}")
    report.headline(float(local["sharpness"]), f"η·λ_max, stable below {float(local['limit']):g}")
    section = report.section("Does the theory apply?")
    for holds, text in verdicts(groups):
        if holds is None:
            section.text(text)
        else:
            section.verdict(holds, text)
    if "/svag" in groups and not groups["/svag"]["diverged"].any():
        test = groups["/svag"]
        kinds = {"sgd": "SGD as asked", "svag": f"SVAG, l = {test.attrs['l']}", "plain": "SGD, plain"}
        columns = [f"{name}_{kind}" for name in ("loss", "distance") for kind in ("{}", "{}_error")]
        section.table(
            ["", "mean loss", "error", "mean distance", "error"],
            [[kinds[k], *(float(test[name.format(k)]) for name in columns)] for k in test["kind"].values],
            f"After {test.attrs['steps']} steps from the same weights, {test.sizes['replica']} runs each, with "
            "standard errors; batch norm with the statistics of batches. SVAG steps η/l(1−μ), without momentum and "
            "with independent batches."
            + (
                " Plain SGD does the same at η/(1−μ): what parts it from SVAG is the step."
                if "plain" in test["kind"]
                else ""
            ),
        )
    section.table(
        ["", "value", ""], rows(groups, question.momentum, question.sampling), "At the weights reached, in eval mode."
    )
    section = report.section("Noise and curvature")
    spectra = {"D": local["diffusion_eigenvalues"].values, "H": local["hessian_eigenvalues"].values}
    figure = plot_spectrum({name: v for name, v in spectra.items() if (v > 0).any()}).figure
    section.figure(
        figure,
        f"Leading eigenvalues: {100 * float(local['inside']):.0f} % of tr D lies in the space of these directions, in "
        f"which the commutator is {float(local['commutator']):.2f} of the product.",
        "Eigenvalues of D and H against their index",
    )
    if local.sizes["direction"]:
        section.table(
            ["curvature h", "ηh", "predicted variance", "predicted deviation"],
            [
                [float(h), question.learning_rate * float(h), float(v), float(v) ** 0.5]
                for h, v in zip(local["curvature"].values[:10], local["variance"].values[:10])
            ],
            "Stationary fluctuation along eigenvectors of H in the joint space, weight decay in h, by the exact "
            f"recursion at constant H and D, mini-batches drawn {_DRAWN[question.sampling]}.",
        )
    else:
        section.text(f"There is no stationary prediction: {local.attrs['no_steady_state']}.")
    tree = xr.DataTree.from_dict(groups)
    run.finish(tree, report.html(provenance(run.config)), {"spectra": figure})


def summary(run: Run) -> dict[str, Any]:
    """What a finished run says, as JSON can hold it."""
    groups, table = _told(run)
    local = groups["/local"]
    lists = ("diffusion_eigenvalues", "hessian_eigenvalues", "curvature", "variance")
    return {
        "numbers": {name: value for name, value, _ in table},
        **{name: local[name].values.tolist() for name in lists},
        "verdicts": [{"holds": holds, "sentence": text} for holds, text in verdicts(groups)],
        "report": str(run.report_path),
        "result": str(run.result_path),
    }


def show(run: Run, console: Console) -> None:
    """The same as tables on the terminal."""
    groups, table = _told(run)
    console.table(("quantity", "value", ""), [(name, number(value), what) for name, value, what in table])
    print()
    console.table(
        ("", ""),
        [("open" if holds is None else "holds" if holds else "FAILS", text) for holds, text in verdicts(groups)],
    )
    print(f"report: {run.report_path}")


def _told(run: Run) -> tuple[dict[str, xr.Dataset], list[tuple[str, Any, str]]]:
    tree = run.result()
    groups = {f"/{name}": tree[name].to_dataset() for name in tree.children}
    return groups, rows(groups, run.config["momentum"], run.config["sampling"])
