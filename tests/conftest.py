"""Settings and fixtures that several test modules share."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pyarrow import parquet

DATA_VARIABLE = "TRL_LAMBDA_TEST_DATA"

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func, in most tests
torch.set_num_threads(1)  # tiny tensors: threads only add noise
settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")


def pytest_collection_finish(session):
    """A training ends in a full collection, which takes longer than a tiny training over all that
    was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real problems, which are not part of the project.

    Without them the tests skip, but not in CI.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if folder:
        return Path(folder)
    message = (
        f"{DATA_VARIABLE} is not set: expected a folder with aime24.parquet, amc23.parquet, "
        "math500.parquet, olympiadbench.parquet, gsm8k.parquet and asdiv.parquet, each with "
        "the columns problem (text) and answers (list of texts)"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def real_problems(real_data: Path) -> Callable[[str], list[dict]]:
    """Reads a set's rows, `problem` and `answers`, by its name."""
    return lambda name: parquet.read_table(real_data / f"{name}.parquet").to_pylist()
