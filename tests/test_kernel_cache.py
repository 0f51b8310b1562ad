"""Generated kernels on disk: shared by processes, private to a user, never stale."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import sde_sgd as sde

COMPILE = """
import sys, hashlib, numpy as np, sde_sgd as sde
digest = hashlib.sha256()
for k in range(int(sys.argv[1])):
    f = sde.Landscape(("x", "y"), f"(x**2 - 1)**2/4 + y**2/2 + {k}*tanh(x*y)/10")
    digest.update(np.ascontiguousarray(sde.simulate(f.at_temperature(0.1), (0.0, 0.0), step=0.1, steps=20, paths=9).x))
print(digest.hexdigest())
"""


def compile_landscapes(count, environment):
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, str(count)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("count, processes", [(1, 2), pytest.param(10, 4, marks=pytest.mark.evidence)])
def test_landscapes_compiled_by_processes_sharing_one_empty_cache(tmp_path, count, processes):
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(processes) as pool:
        shared = list(
            pool.map(lambda _: compile_landscapes(count, {"SDE_SGD_CACHE_DIR": str(cache)}), range(processes))
        )
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    homeless = {
        "HOME": str(tmp_path / "file"),
        "XDG_CACHE_HOME": "",
        "SDE_SGD_CACHE_DIR": "",
        "TMPDIR": str(tmp_path / "temporary"),
    }  # no home that can be written to
    private = [compile_landscapes(count, homeless) for _ in range(processes // 2)]  # the long form: cold, then warm
    assert len({*shared, *private}) == 1
    assert len(list((tmp_path / "temporary").rglob("kernel_*.py"))) == count
    assert not list(cache.glob("*.partial"))
    assert len(list(cache.glob("kernel_*.py"))) == count
    assert len(list(cache.glob("fragment_philox_*.py"))) == 1  # compiled once, for every kernel


def test_an_edited_expression_never_meets_old_code():
    for factor in (1.0, 2.0):
        f = sde.Landscape("x", f"{factor}*x**2/2")
        x = sde.simulate(f.at_temperature(1e-12), 1.0, step=0.1, steps=1).x
        assert float(x[0]) == pytest.approx(1 - 0.1 * factor, abs=1e-5)


def test_a_folder_that_does_not_serve_is_an_error(tmp_path, monkeypatch):
    from sde_sgd.paths._kernel_cache import cache_folder

    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    for folder in (tmp_path / "open", tmp_path / "file" / "below"):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SDE_SGD_CACHE_DIR", str(folder))
        with pytest.raises(ValueError, match="cannot hold compiled kernels"):
            cache_folder()
