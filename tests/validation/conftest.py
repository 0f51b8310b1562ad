"""Real networks: skipped as a whole where torch is not installed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sde_sgd.results import load

torch = pytest.importorskip("torch")
pytest.importorskip("torchsde")


@pytest.fixture(autouse=True)
def one_thread():
    """Bitwise statements hold for one thread; workers that share cores are faster with it, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def killed(tmp_path):
    """killed(name, settings, whole, kept, counts): kill −9, resume `sde-sgd run NAME`; (how often, identical stages).

    The command is killed as soon as `counts[0]` files, stages or such as `kept` matches in its work folder, are there,
    the same command when there are `counts[1]`, …, and then it runs to its end. Every stage must hold the numbers of
    the uninterrupted run in the folder `whole`, bit for bit.
    """

    def kill(name, settings, whole, kept, counts):
        root = tmp_path / "cut"
        words = [f"--{key.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, list) else value}"
                 for key, value in settings.items()]  # fmt: skip
        command = [sys.executable, "-c", "from sde_sgd.cli import main; main()"]
        command += ["run", name, *words, "--root", str(root), "--json", "-q"]
        kills = 0
        for wanted in counts:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            while process.poll() is None:
                found = [*root.glob(f"{name}-*/stages/*.nc"), *root.glob(f"{name}-*/work/{kept}")]
                if len(found) >= wanted:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.005)
            kills += process.wait() == -signal.SIGKILL
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, 1) and json.loads(done.stdout)["verdicts"], done.stderr
        (cut,) = root.glob(f"{name}-*")
        stages = sorted((whole / "stages").glob("*.nc"))
        assert kills >= 1 and stages and len(stages) == len(list((cut / "stages").glob("*.nc")))
        for path in stages:
            assert load(path).drop_attrs().identical(load(cut / "stages" / path.name).drop_attrs()), path.name
        return kills, len(stages)

    return kill
