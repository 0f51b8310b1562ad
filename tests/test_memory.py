"""Ensembles that are counted and not stored: memory does not grow with the number of paths."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import re, sys
import sde_sgd as sde

paths, steps = int(sys.argv[1]), int(sys.argv[2])
process = sde.landscapes.get("double_well").at_temperature(0.2)
grid = sde.Grid((-4, -4), (4, 4), (200, 200))
density = sde.sample_density(process, grid, step=0.01, steps=steps, paths=paths, burn_in=0, start=(-1.0, 0.0))
assert density.attrs["samples"] == paths * steps
# not getrusage: on Linux a child begins with its parent's peak
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def peak(paths: int, steps: int) -> float:
    """Peak resident memory in MiB of a process that counts so many states."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(paths), str(steps)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_twenty_times_the_paths_need_no_more_memory():
    """5·10⁵ and 10⁷ paths of one step: a stored state of the second would take 160 MB."""
    few, many = peak(500_000, 1), peak(10_000_000, 1)
    assert many - few < 80 and many < 500


@pytest.mark.evidence(table="memory")
def test_a_billion_path_steps_in_a_histogram(table):
    """10⁹ states of the 2-D double well on 200² cells, as 10⁵ paths and as 10⁸: peak below 500 MiB."""
    rows = [
        [f"{paths:.0e}", f"{steps}", f"{peak(paths, steps):.0f} MiB"] for paths, steps in ((10**5, 10**4), (10**8, 10))
    ]
    table("Peak memory of 10⁹ path-steps counted on 200² cells", ["paths", "steps", "peak resident"], rows)
    assert all(float(row[2].split()[0]) < 500 for row in rows)
