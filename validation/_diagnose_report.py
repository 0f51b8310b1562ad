"""How `sde-sgd diagnose` tells what it found: one page, a table on the terminal, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from sde_sgd._console import Console
from sde_sgd.figures import plot_spectrum
from sde_sgd.report import Report, number
from sde_sgd.results import Run, provenance

if TYPE_CHECKING:
    from .diagnose import Question

_ALIKE = 0.1  # of loss and distance, a difference of SGD and SVAG that is small


def verdicts(groups: Mapping[str, xr.Dataset]) -> list[tuple[bool | None, str]]:
    """Whether each hypothesis of the theory holds, in a sentence with its numbers; None where it cannot be told."""
    local = groups["/local"]
    eta_h, limit = float(local["sharpness"]), float(local["limit"])
    found: list[tuple[bool | None, str]] = [
        (
            eta_h < limit,
            f"η·λ_max = {number(eta_h)} "
            + ("is below" if eta_h < limit else "is not below")
            + f" its limit 2(1+μ) = {number(limit)}: the steepest direction "
            + ("is stable." if eta_h < limit else "is not stable at constant curvature."),
        ),
        (
            eta_h < 0.2,
            f"η·λ_max = {number(eta_h)} "
            + ("is small, and" if eta_h < 0.2 else "is not small (0.2):")
            + " the variance along that direction is 1/(1 − ηλ/2) times that of the SDE"
            + (f", {1 / (1 - eta_h / 2):.2f} (without momentum)." if eta_h < 2 else "."),
        ),
    ]
    if "/svag" not in groups:
        return found
    test = groups["/svag"]
    order, steps = test.attrs["l"], test.attrs["steps"]
    if test.attrs["diverged"]:
        return [*found, (False, f"SGD or SVAG diverged within {steps} steps: no SDE describes that.")]
    gaps = {name: (float(test[f"{name}_gap"]), float(test[f"{name}_z"])) for name in ("loss", "distance")}
    worst = max(abs(gap) for gap, _ in gaps.values())
    resolution = max(float(test[f"{name}_resolution"]) for name in gaps)
    apart = any(abs(z) >= 3 and abs(gap) >= _ALIKE for gap, z in gaps.values())
    valid = False if apart else True if resolution <= _ALIKE else None
    text = (
        f"SGD and SVAG (l = {order}) end {steps} steps {'apart' if apart else 'alike'}: mean loss "
        f"{float(test['loss_sgd']):.4g} and {float(test['loss_svag']):.4g} ({gaps['loss'][1]:+.1f} standard errors), "
        "mean "
        f"distance from the start {float(test['distance_sgd']):.4g} and {float(test['distance_svag']):.4g} "
        f"({gaps['distance'][1]:+.1f}). "
    )
    text += {
        True: "The SDE describes this run",
        False: "The SDE does not describe this run",
        None: "Whether the SDE describes this run cannot be told from so few replicas",
    }[valid]
    share = f"{100 * worst:.1f} % of loss or distance"
    text += f": the difference is {share}; {100 * resolution:.1f} % would be three standard errors."
    return [*found, (valid, text)]


def rows(groups: Mapping[str, xr.Dataset], momentum: float) -> list[tuple[str, Any, str]]:
    """Quantity, value, what it means."""
    local = groups["/local"]
    current = float(local["current"])
    table = [
        ("d, N", f"{local.attrs['parameters']}, {local.attrs['samples']}", "weights, training samples"),
        ("f", float(groups["/training"]["loss"]), "loss on the training samples"),
        ("T", float(local["temperature"]), "η/(2b(1−μ)), with replacement"),
        ("|∇f|", float(local["gradient"]), "full gradient, without decay"),
        ("tr D", float(local["trace"]), "variance of the gradient of one sample"),
        ("√(tr D/b)/|∇f|", float(local["noise_to_signal"]), "noise over signal of one step"),
        ("η·λ_max", float(local["sharpness"]), f"stable below {2 * (1 + momentum):g}, an SDE for ≪ 1"),
        ("|HD−DH|/|HD|", float(local["commutator"]), "0: no current at a minimum; in the joint top space"),
        ("share of tr D", float(local["inside"]), "in that space"),
        ("negative curvatures", int(local["negative"]), "in that space: not a minimum if there are any"),
    ]
    if current == current:
        table.append(("|TQ|/(T|D|)", current, "predicted current against the noise"))
    else:
        table.append(("|TQ|/(T|D|)", None, local.attrs["no_steady_state"]))
    return table


def page(run: Run, question: Question, groups: dict[str, xr.Dataset]) -> None:
    """Write result.nc, report.html and the figure."""
    local = groups["/local"]
    report = Report(
        f"SGD on {question.name}",
        f"η = {question.learning_rate:g}, b = {question.batch_size}, μ = {question.momentum:g}, weight decay "
        f"{question.weight_decay:g}, on {question.data}, after {question.epochs} epochs.",
    )
    report.headline(float(local["temperature"]), "temperature T = η/(2b(1−μ))")
    report.headline(float(local["sharpness"]), f"η·λ_max, stable below {float(local['limit']):g}")
    section = report.section("Does the theory apply?")
    for holds, text in verdicts(groups):
        if holds is None:
            section.text(text)
        else:
            section.verdict(holds, text)
    if question.momentum and "/svag" in groups:
        section.text(
            "SVAG is a test of plain SGD: here it was run at η/(1−μ), without momentum. What momentum itself does is "
            "in "
            "the predicted variances only."
        )
    section.table(["", "value", ""], rows(groups, question.momentum), "At the weights reached, in eval mode.")
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
            "Stationary fluctuation along eigenvectors of H in the joint space, by the exact recursion at constant H "
            "and "
            "D, mini-batches with replacement.",
        )
    else:
        section.text(f"There is no stationary prediction: {local.attrs['no_steady_state']}.")
    tree = xr.DataTree.from_dict(groups)
    run.finish(tree, report.html(provenance(run.config)), {"spectra": figure})


def show(run: Run, console: Console, as_json: bool) -> None:
    """The table on the terminal, or everything as JSON."""
    tree = run.result()
    groups = {f"/{name}": tree[name].to_dataset() for name in tree.children}
    found = verdicts(groups)
    table = rows(groups, run.config["momentum"])
    if as_json:
        local = groups["/local"]
        console.json(
            {
                "numbers": {name: value for name, value, _ in table},
                "diffusion_eigenvalues": local["diffusion_eigenvalues"].values.tolist(),
                "hessian_eigenvalues": local["hessian_eigenvalues"].values.tolist(),
                "curvature": local["curvature"].values.tolist(),
                "variance": local["variance"].values.tolist(),
                "verdicts": [{"holds": holds, "sentence": text} for holds, text in found],
                "report": str(run.report_path),
                "result": str(run.result_path),
            }
        )
        return
    console.table(("quantity", "value", ""), [(name, number(value), what) for name, value, what in table])
    print()
    console.table(
        ("", ""), [("open" if holds is None else "holds" if holds else "FAILS", text) for holds, text in found]
    )
    print(f"report: {run.report_path}")
