"""The batch size where nobody says: from the model, the memory and the cores."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from scripted_generator import sums

from trl_lambda.evaluation import Sampling, TransformersGenerator, evaluate
from trl_lambda.evaluation import batch_size as batch_size_module
from trl_lambda.evaluation.batch_size import cpu_memory, row_bytes, suitable_batch_size


@pytest.fixture
def machine(monkeypatch):
    """A machine of this many cores and bytes."""

    def make(cores: int, memory: float):
        monkeypatch.setattr(batch_size_module, "available_cores", lambda: cores)
        monkeypatch.setattr(batch_size_module, "cpu_memory", lambda: int(memory))

    return make


def test_the_memory_of_a_completion_is_that_of_its_cache_and_logits():
    model = tiny.model()
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * 4
    for tokens in (1, 100):
        assert row_bytes(model, tokens) == per_token * tokens + 48 * config.vocab_size
    output = model(torch.tensor([[3, 4, 5]]))
    held = sum(
        one.numel() * 4
        for layer in output.past_key_values.layers
        for one in (layer.keys, layer.values)
    )
    assert held == per_token * 3


@pytest.mark.parametrize(
    ("cores", "rows_of_memory", "expected"),
    [(1, 1e6, 16), (2, 1e6, 32), (3, 1e6, 32), (64, 1e6, 256), (2, 21.5, 16), (2, 0.1, 1)],
)
def test_the_batch_size_suits_cores_and_memory(cores, rows_of_memory, expected, machine):
    """The largest power of two; half of the memory is for others, and for what is padded."""
    model = tiny.model()
    weights = sum(one.numel() * 4 for one in model.parameters())
    machine(cores, 2 * (weights + rows_of_memory * row_bytes(model, 1000)))
    assert suitable_batch_size(model, 1000) == expected


def test_longer_completions_get_smaller_batches(machine):
    model = tiny.model()
    weights = sum(one.numel() * 4 for one in model.parameters())
    machine(8, 2 * (weights + 128 * row_bytes(model, 100)))
    assert suitable_batch_size(model, 100) == 128
    assert suitable_batch_size(model, 10_000) < 8


def test_a_model_of_another_kind_gets_a_modest_batch(machine):
    machine(64, 1e15)
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=9))
    model = SimpleNamespace(device=torch.device("cpu"), config=config)
    assert suitable_batch_size(model, 100) == 16


def test_the_memory_of_this_machine():
    assert 2**26 < cpu_memory() < 2**50


def test_a_loaded_model_chooses_its_batch(tmp_path, machine):
    folder = tiny.model().name_or_path
    tiny.tokenizer().save_pretrained(folder)
    machine(2, 1e12)
    made = TransformersGenerator.load(folder)
    assert made.batch_size is None
    evaluate(sums(2), made, Sampling(max_tokens=3, template="none"), tmp_path, k=1, progress=False)
    assert '"batch_size": 32' in (tmp_path / "sums" / "settings.json").read_text()
