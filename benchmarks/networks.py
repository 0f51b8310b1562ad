"""Real networks: spectra of D and of the Hessian, trajectories, ensembles and draws of the noise, against their peers.

BackPACK, curvlinops with SciPy's eigsh, PyHessian, plain eager PyTorch and torch.func's vmap, each at the same work on
the same weights, on one thread and on all; the errors of both sides stand beside the times. Each measurement is a
process of its own, so that its peak memory is its own. Run by `make bench`; writes docs/benchmarks/networks.md, a
section for every device whose figures build/benchmarks holds. About 10 minutes on two idle cores.

    python benchmarks/networks.py [--device cpu|cuda] [--tf32 on|off] [--peers build/peers] [--small]

With --small (or --quick, as in the other benchmarks) networks and runs are small and on one thread, the figures mean
nothing, and the page goes to build/benchmarks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _network_page as page
from _machine import DOCS, machine, publish
from _network_problem import FLOOR

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
LOOSE = 0.5  # of a residual over the largest eigenvalue: beyond it nothing is found


class Runs:
    """The roads of one device, each in a process of its own; what they found, by road and threads."""

    def __init__(self, folder: str, peers: Path, threads: tuple[str, ...]):
        self._folder, self._peers, self._threads = folder, peers, threads
        self.found: dict[str, dict] = {}
        self.versions: dict[str, str] = {}

    def one(self, side: str, threads: str, road: str, *options) -> dict:
        python = [sys.executable] if side == "ours" else [str(self._peers), "-W", "ignore"]
        command = [*python, f"_network_{side}.py", road, self._folder, threads, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
        if done.returncode:
            raise RuntimeError(f"{side}: {road} {options} failed:\n{done.stderr[-2000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        self.versions |= result.pop("versions", {})
        return result

    def both(self, side: str, road: str, *options, only: str | None = None) -> dict:
        """On one thread and on all; `only` one of the two, where a run is long."""
        name = " ".join((side, road, *map(str, options)))
        for threads in self._threads:
            if only is None or only == threads or len(self._threads) == 1:
                self.found.setdefault(name, {})[threads] = self.one(side, threads, road, *options)
                print(name, threads, self.found[name][threads], file=sys.stderr, flush=True)
        return self.found[name]


def measured(settings: dict, peers: Path) -> dict:
    """Everything the page of one device says."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "settings.json").write_text(json.dumps(settings), "utf-8")
        runs = Runs(folder, peers, tuple(settings["threads"]))
        problems, reference = runs.one("ours", "all", "prepare"), runs.one("ours", "all", "reference")
        runs.both("ours", "spectrum", "gram")
        runs.both("peers", "curvlinops_noise", 1e-3)
        runs.both("ours", "spectrum", "lanczos", only="1")
        runs.both("peers", "backpack_noise", only="all")
        pairs = {}
        # The slower peers on all threads only, to keep the whole to about ten minutes.
        for peer, only in ((page.LARGER, None), (page.DEFAULT, "all"), (page.POWER, "all")):
            at = runs.both("peers", *peer, only=only)
            worst = max(found["residual"] for found in at.values())
            tolerance = f"{min(LOOSE, max(FLOOR, worst)):.2g}"
            runs.both("ours", "hessian", tolerance, only=only)
            pairs[" ".join(map(str, ("peers", *peer)))] = f"ours hessian {tolerance}"
        if settings["device"] == "cpu":
            runs.both("ours", "kernel")
        runs.both("peers", "eager")
        for side, kind in (("ours", "compiled"), ("ours", "plain"), ("peers", "plain"), ("peers", "compiled")):
            runs.both(side, "replicas", kind)
        for name in settings["networks"]:
            only = None if name == "large" else "1"  # a second thread has nothing to do there
            roads = [("ours", "sample"), ("ours", "euler"), ("peers", "weighted"), ("peers", "backpack_draw")]
            for side, road in roads if name == "large" else [*roads, ("peers", "cholesky")]:
                runs.both(side, road, name, only=only)
            if name == "tiny":
                runs.both("ours", "euler", name, page.TOGETHER, only=only)
        return {
            "settings": settings, "problems": problems, "reference": reference, "found": runs.found, "pairs": pairs,
            "gaps": page.gaps(Path(folder), settings), "versions": runs.versions,
            "machine": machine("sde-sgd", "torch", "numpy", "scipy", "numba"), "hardware": hardware(settings),
        }  # fmt: skip


def hardware(settings: dict) -> str:
    if settings["device"] == "cpu":
        return "CPU"
    import torch

    return f"{torch.cuda.get_device_name()}, TF32 {'on' if settings['tf32'] else 'off'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", choices=("on", "off"), default="off", help="matrix products in TF32, on cuda")
    parser.add_argument("--peers", type=Path, default=BUILD / "peers", help="environment of the peers")
    parser.add_argument("--small", "--quick", action="store_true", help="short: the figures mean nothing")
    given = parser.parse_args()
    peers = given.peers / "bin" / "python" if given.peers.is_dir() else given.peers
    if not peers.exists():
        sys.exit(f"{os.path.relpath(peers)} is missing; `make bench` makes it from benchmarks/peers.txt")
    if given.tf32 == "on" and given.device == "cpu":
        sys.exit("--tf32 on belongs to --device cuda: a CPU has no such type")
    settings = {
        "small": given.small, "device": given.device, "tf32": given.tf32 == "on", "eigenvalues": 20,
        "steps": 40 if given.small else 400, "replicas": 16 if given.small else 256,
        "threads": ["1"] if given.small else ["1", "all"] if given.device == "cpu" else ["all"],
        "networks": ["tiny", "large"] if given.small else ["tiny", "middle", "large"],
    }  # fmt: skip
    found = measured(settings, peers)
    folder = BUILD / "benchmarks" / ("small" if given.small else "")
    folder.mkdir(parents=True, exist_ok=True)
    kind = given.device + ("-tf32" if settings["tf32"] else "")
    (folder / f"networks-{kind}.json").write_text(json.dumps(found), "utf-8")
    every = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("networks-*.json"))]
    publish("networks", page.text(every), folder if given.small else DOCS)


if __name__ == "__main__":
    main()
