"""Fixtures of several modules."""

import importlib.util
import sys
from pathlib import Path

import pytest
import tiny

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"


@pytest.fixture(scope="session")
def recipe():
    """The module of the command line."""
    spec = importlib.util.spec_from_file_location("evaluate_recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> str:
    """The tiny model with its tokenizer."""
    folder = str(tmp_path_factory.mktemp("model"))
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
