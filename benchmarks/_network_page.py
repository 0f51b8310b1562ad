"""The page of `networks.py`: a section for each device, from what was measured there."""

from pathlib import Path

import numpy as np
from _machine import table
from _network_problem import CHECKED, FORMS, SMALL

MOST = 1024  # MiB that the spectrum of D may take
TOGETHER = 32  # replicas of the SDE side by side
BASIS = 100  # of eigsh, for fewer products than its default takes
DEFAULT, LARGER, POWER = ("curvlinops_hessian", 1e-3), ("curvlinops_hessian", 1e-3, BASIS), ("pyhessian",)

INTRO = """# Real networks

Peers: curvlinops with SciPy's `eigsh`, BackPACK, PyHessian, PyTorch by itself. Every road starts from the same weights
and samples, in a process of its own. Times are wall-clock, the shortest of several runs unless a run takes long; the
*first* call stands apart, as it warms up or compiles. *Memory* is what that call adds to the process at its peak.
"""


def gaps(folder: Path, settings: dict) -> dict[str, float]:
    """How far roads that compute the same are apart: largest difference of a weight, relative distance of draws."""
    read = lambda name: np.load(folder / f"{name}.npy")  # noqa: E731
    found = {}
    if settings["device"] == "cpu":
        found["kernel"] = float(np.abs(read("steps_ours") - read("steps_eager")).max())
    ours = read("replicas_compiled").reshape(settings["replicas"], -1)
    found["ensemble, eager"] = float(np.abs(ours[0] - read("steps_eager")).max())
    found["ensemble, vmap"] = float(np.abs(ours - read("replicas_peer_plain")).max())
    for name in settings["networks"]:
        exact = read(f"draw_weighted_{name}").astype(float)
        for road in ("ours", "backpack"):
            away = read(f"draw_{road}_{name}") - exact
            found[f"{road}, {name}"] = float(np.linalg.norm(away) / np.linalg.norm(exact))
    return found


def text(every: list[dict]) -> str:
    versions = ", ".join(" ".join(pair) for pair in every[0]["versions"].items())
    sections = "\n\n".join(_Section(one).text() for one in every)
    absent = "" if any(one["settings"]["device"] == "cuda" for one in every) else (
        "\n\nNo GPU was at hand: there is no table of one. `python benchmarks/networks.py --device cuda [--tf32 on]` "
        "makes it."
    )  # fmt: skip
    return f"{INTRO}\n{sections}{absent}\n\nPeers: {versions}."


class _Section:
    """One device: `found` maps a road to what it measured, by threads."""

    def __init__(self, measured: dict):
        self.settings, self.found, self.problems = (measured[key] for key in ("settings", "found", "problems"))
        self.reference, self.pairs, self.gaps = (measured[key] for key in ("reference", "pairs", "gaps"))
        self.hardware, self.machine = measured["hardware"], measured["machine"]
        cpu = self.settings["device"] == "cpu"
        self.threads = tuple(self.settings["threads"])
        self.words = tuple("GPU" if not cpu else "1 thread" if t == "1" else "all" for t in self.threads)

    def text(self) -> str:
        parts = (self.noise(), self.hessian(), self.steps(), self.draws())
        return f"## {self.hardware}\n\n" + "\n\n".join(parts) + f"\n\n{self.busy()}{self.machine}"

    # Cells --------------------------------------------------------------------------------------------------

    def cell(self, road: str, key: str, form: str = ".3g", scale: float = 1.0) -> list[str]:
        """One cell per number of threads; a dash where a road did not run."""
        runs = self.found.get(road, {})
        return [format(scale * runs[t][key], form) if t in runs and key in runs[t] else "–" for t in self.threads]

    def any(self, road: str, key: str, form: str = ".3g", scale: float = 1.0) -> str:
        """The cell of one thread, or of all where it did not run on one."""
        return next((c for c in self.cell(road, key, form, scale) if c != "–"), "–")

    def ratio(self, slow: str, fast: str) -> list[str]:
        """How many times as long, per number of threads."""
        a, b = self.found.get(slow, {}), self.found.get(fast, {})
        return [f"{a[t]['seconds'] / b[t]['seconds']:.3g}" if t in a and t in b else "–" for t in self.threads]

    def sizes(self, name: str) -> str:
        small = self.settings["small"] and name == "large"
        return "–".join(map(str, SMALL if small else FORMS[name][0]))

    def times(self, unit: str) -> list[str]:
        return [f"{word}, {unit}" for word in self.words]

    # Parts --------------------------------------------------------------------------------------------------

    def noise(self) -> str:
        k, large = self.settings["eigenvalues"], self.problems["large"]
        sizes = self.sizes("large")
        roads = {
            "ours spectrum gram": "`GradientNoise.spectrum()`",
            "ours spectrum lanczos": f'`spectrum({k}, method="lanczos")`',
            "peers curvlinops_noise 0.001": "curvlinops, `eigsh`",
            "peers backpack_noise": "BackPACK, inner products",
        }  # fmt: skip
        rows = [
            [words, self.any(r, "count", ".0f"), self.any(r, "products", ".0f"), self.any(r, "first"),
             *self.cell(r, "seconds"), *self.ratio(r, "ours spectrum gram"), self.any(r, "memory", ".0f", 2**-20),
             self.any(r, "error", ".1e")]
            for r, words in roads.items() if r in self.found
        ]  # fmt: skip
        columns = ["", "eigenvalues", "products", "first, s", *self.times("s"), *(f"ratio, {w}" for w in self.words),
                   "memory, MiB", "error"]  # fmt: skip
        peak = self.found["ours spectrum gram"][self.threads[0]]["memory"] / 2**20
        within = "within" if peak <= MOST else "beyond"
        return f"""### All eigenvalues of D

A network {sizes} with tanh: d = {large["weights"]:,} weights, N = {large["samples"]:,} digits, float32, cross-entropy
{large["loss"]:.3g} after 6 epochs of SGD. *Ratio* is over the first line, which builds the object, checks the model and
finds all the eigenvalues that can be nonzero. *Error* is the largest difference of a listed eigenvalue from its float64
value, over the largest eigenvalue.

{table(columns, rows)}

The memory is {within} {MOST} MiB. curvlinops has no centred matrix: its {k} are those of $D + gg^\\top$, and compared
with those; they are up to {self.reference["shift"]:.1e} of the largest away from D's. It stops at a residual of
10⁻³ of each, as Lanczos here at 10⁻³ of the largest; its check of determinism is off, ours is on. BackPACK has no
inner products: its `BatchGrad` gives the N × d gradients, multiplied here in float32 and centred in float64.

The float64 values: their sum is tr D, found from the gradients themselves, to {max(self.reference["trace"], 1e-16):.0e}
of it, and the first three have residuals of at most {self.reference["residual"]:.0e} of the largest by products without
the Gram matrix."""

    def hessian(self) -> str:
        k, rows = self.settings["eigenvalues"], []
        titles = {
            "peers " + " ".join(map(str, peer)): title
            for peer, title in (
                (LARGER, f"curvlinops, `eigsh(ncv={BASIS})`"), (DEFAULT, "curvlinops, `eigsh`"), (POWER, "PyHessian")
            )
        }  # fmt: skip
        for peer, own in self.pairs.items():
            tolerance = own.split()[-1]
            for road, title in ((peer, titles[peer]), (own, f"`Curvature.eigenpairs({k}, tolerance={tolerance})`")):
                rows.append(
                    [title, self.any(road, "products", ".0f"), *self.cell(road, "seconds"), *self.ratio(peer, road),
                     self.any(road, "memory", ".0f", 2**-20), self.any(road, "residual", ".1e"),
                     self.any(road, "error", ".1e")]
                )  # fmt: skip
        columns = ["", "products", *self.times("s"), *(f"peer / this, {w}" for w in self.words), "memory, MiB",
                   "residual", "error"]  # fmt: skip
        return f"""### The {k} largest eigenvalues of the Hessian

The same network. Each peer first, then ours, told to reach the residual that the peer was measured to have. *Residual*
is the largest $|Hq - \\lambda q|$ of the {k}, *error* the largest difference from the float64 eigenvalues, both over
the largest eigenvalue; products for the residuals are by `torch.func`, and belong to neither side.

{table(columns, rows)}

`eigsh` keeps 2k + 1 vectors by default and starts again when they are full; ours keeps all of its vectors.
PyHessian iterates one vector after another, deflated by those before, and stops where an estimate changes by less than
10⁻³ of itself (at most 100 times): it finds the largest in modulus, and need not find all. Ours is not asked for a
residual beyond half of the largest, and never below rounding."""

    def steps(self) -> str:
        roads = {
            "ours kernel": "`OneHiddenLayer.run`, one run",
            "peers eager": "eager loop, one run",
            "ours replicas compiled": "`ensemble`, compiled",
            "ours replicas plain": "`ensemble(compile=False)`",
            "peers replicas plain": "`torch.func.vmap`",
            "peers replicas compiled": "the same under `torch.compile`",
        }  # fmt: skip
        rows = [
            [words, *self.cell(road, "seconds", ".3g", 1e6), *self.ratio("peers eager", road),
             self.any(road, "first", ".2f")]
            for road, words in roads.items() if road in self.found
        ]  # fmt: skip
        columns = ["", *self.times("µs per step"), *(f"eager / this, {w}" for w in self.words), "first call, s"]
        same = [f"{self.gaps['kernel']:.0e} from the kernel's"] if "kernel" in self.gaps else []
        same += [f"{self.gaps['ensemble, eager']:.0e} from the first replica's"]
        return f"""### Steps of SGD

tiny-fc {self.sizes("tiny")} with ReLU, float64, batch 32, {self.settings["replicas"]} replicas for
the lines that have any; microseconds of one replica's step. *Eager* is the plainest loop: indexing, forward, backward,
`torch.optim.SGD`. The peers are given the samples; ours draw them.

{table(columns, rows)}

After {CHECKED} steps the weights of the eager loop are {" and ".join(same)}, and those of `torch.func.vmap`
{self.gaps["ensemble, vmap"]:.0e} from the ensemble's. The kernel does networks of one hidden layer only."""

    def draws(self) -> str:
        rows, networks = [], []
        for name in self.settings["networks"]:
            problem, sizes = self.problems[name], self.sizes(name)
            networks.append(f"{name} ({sizes}; d = {problem['weights']:,}, N = {problem['samples']:,})")
            for road, words in (
                ("ours sample", "`GradientNoise.sample`, same weights"),
                ("ours euler", "`NetworkSDE.euler`, a step with its gradient"),
                (f"ours euler {name} {TOGETHER}", f"the same, of {TOGETHER} replicas together, each"),
                ("peers weighted", "torch, one weighted backward pass"),
                ("peers backpack_draw", "BackPACK, gradients of all samples"),
                ("peers cholesky", "D, its Cholesky factor, a product"),
            ):
                full = road if name in road else f"{road} {name}"
                if full not in self.found:
                    continue
                gap = self.gaps.get(f"{road.split()[-1]}, {name}".replace("sample", "ours").replace("_draw", ""))
                rows.append(
                    [f"{name}: {words}", *self.cell(full, "seconds", ".3g", 1e3),
                     self.any(full, "memory", ".0f", 2**-20), "–" if gap is None else f"{gap:.0e}"]
                )  # fmt: skip
        again = ", ".join(
            f"{self.any(f'peers cholesky {n}', 'again', '.3g', 1e3)} ms ({n})"
            for n in self.settings["networks"] if f"peers cholesky {n}" in self.found
        )  # fmt: skip
        size = 8 * self.problems["large"]["weights"] ** 2 / 2**40
        return f"""### Draws of the noise

One draw of $N(0, D/b)$, b = 32, on the networks {", ".join(networks)}; float32 for the large one, else
float64. *Gap* is the relative distance from the draw of the line of torch with the same normals.

{table(["", *self.times("ms"), "memory, MiB", "gap"], rows)}

What makes a draw cheap is the weighted backward pass, and torch does it in one line. `sample` keeps the graph of the
losses, which stays as long as the weights do; `NetworkSDE` has new weights at each step, and its gradient and noise
take one pass together. With the Cholesky factor at hand, another draw at the *same* weights takes {again}. A factor of
the large network would take {size:.2g} TiB."""

    def busy(self) -> str:
        """A warning where a road on one thread got less than one core."""
        shares = [run["1"]["cores"] for run in self.found.values() if "1" in run and "cores" in run["1"]]
        if not shares or min(shares) > 0.9:
            return ""
        return (
            f"**Provisional: the machine was not idle. A road on one thread got {min(shares):.2f} to "
            f"{max(shares):.2f} of a core.** "
        )
