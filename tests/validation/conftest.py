"""Real networks: skipped as a whole where torch is not installed."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchsde")


@pytest.fixture(autouse=True)
def one_thread():
    """Bitwise statements hold for one thread; workers that share cores are faster with it, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
