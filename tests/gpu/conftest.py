"""What these tests run on: a CUDA device, and without one each of them fails and says so."""

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail(
            "tests marked gpu need a CUDA device, and torch.cuda.is_available() is False: run them "
            f"where it is True (this is torch {torch.__version__}), or leave out -m gpu.",
            pytrace=False,
        )
    # cuBLAS reads it at its first call; deterministic algorithms ask for it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda")


@pytest.fixture(scope="module")
def deterministic(device):
    """Operations that have no deterministic kernel raise."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
