"""Fixtures of several modules."""

import pytest
import tiny

from trl_lambda.scripts import evaluate


@pytest.fixture(scope="session")
def recipe():
    """The module of the command line."""
    return evaluate


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> str:
    """The tiny model with its tokenizer."""
    folder = str(tmp_path_factory.mktemp("model"))
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
