"""The sub-command `sde-sgd diagnose`. Heavy imports live inside the function."""

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    name: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="Makes the model; or a name, as tiny-fc or small-lenet.")
    ],
    data: Annotated[str, typer.Option(help="A data set by name: digits, wine, mnist, …")],
    learning_rate: Annotated[float, typer.Option(help="η")],
    batch_size: Annotated[int, typer.Option(help="b")],
    directory: Annotated[Path | None, typer.Option(help="Folder of data that are read from files.")] = None,
    size: Annotated[int | None, typer.Option(help="Side to which images are pooled. (default: their own)")] = None,
    classes: Annotated[str | None, typer.Option(metavar="0,1,…", help="Labels to keep. (default: all)")] = None,
    samples: Annotated[int | None, typer.Option(help="Training samples used. (default: all)")] = None,
    loss: Annotated[
        str, typer.Option(help="auto, cross-entropy or mse; auto is cross-entropy where targets are labels.")
    ] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="State dict to load, as torch.save wrote it. (default: as made)")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of SGD before the diagnosis; 0 takes the model as it is.")] = 0,
    momentum: Annotated[float, typer.Option(help="μ")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="λ")] = 0.0,
    sampling: Annotated[
        str, typer.Option(help="How batches are drawn: with_replacement, without_replacement or reshuffling.")
    ] = "reshuffling",
    top: Annotated[int, typer.Option(help="Leading eigenvectors of each of H and D.")] = 10,
    svag: Annotated[int, typer.Option(help="l of the SVAG test.")] = 4,
    svag_steps: Annotated[int, typer.Option(help="Steps of SGD in the SVAG test; 0 leaves it out.")] = 200,
    replicas: Annotated[int, typer.Option(help="Runs of each kind in the SVAG test.")] = 64,
    seed: Annotated[int, typer.Option(help="Of split, initialisation by name, and mini-batches.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … (default: where the model is made)")] = None,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """What the theory says of SGD on your network: temperature, noise, curvature, and whether its SDE describes it."""
    from sde_sgd._console import Console

    from ._diagnose_report import show, summary
    from .diagnose import Question, diagnosed

    question = Question(
        name=name,
        data=data,
        learning_rate=learning_rate,
        batch_size=batch_size,
        directory=None if directory is None else str(directory),
        size=size,
        classes=None if classes is None else _labels(classes),
        samples=samples,
        loss=loss,
        weights=None if weights is None else str(weights),
        epochs=epochs,
        momentum=momentum,
        weight_decay=weight_decay,
        sampling=sampling,
        top=top,
        svag=svag,
        svag_steps=svag_steps,
        replicas=replicas,
        seed=seed,
        device=device,
    )
    console = Console(quiet)
    run = diagnosed(question, console, root=root, fresh=fresh)
    console.json(summary(run)) if as_json else show(run, console)


def _labels(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"classes must be whole numbers parted by commas, got {text!r}") from None
