"""The same start for every test of a model."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh_start():
    """Seeded, nothing compiled before, and one thread: for small tensors a second one only waits, and may wait long."""
    torch.manual_seed(0)
    torch.compiler.reset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
