"""A model is evaluated on the tokens that it was trained on.

Training's side is TRL's own: the trainer tokenizes what `prepare_prompts` made of a file. The
evaluation's side is what reaches the model, from the same file.
"""

import itertools
import json
from types import SimpleNamespace

import pytest
import tiny
import tiny_chat
import torch
from datasets import load_dataset
from test_vllm_generator import vllm  # noqa: F401  (a fixture)
from tokenizers import processors
from trl import GRPOTrainer

from trl_lambda.data import prepare_prompts
from trl_lambda.evaluation import (
    EvaluationCallback,
    Sampling,
    TransformersGenerator,
    VLLMGenerator,
    evaluate,
    load_problem_set,
    read_records,
)
from trl_lambda.templates import TEMPLATES

PROBLEMS = ["1+1=", "  2+2=\n", "3+3=\n\n", "\n4+4 = \t", "é5+5="]
OWN = "q: {prompt}\n a:"
OPTIONS = [
    *({"template": template} for template in (*TEMPLATES, OWN)),
    *(
        {"template": template, "conversational": True, "system_prompt": system}
        for template, system in itertools.product(("none", "chat", OWN), (None, "be brief.\n"))
    ),
    {"template": "chat", "system_prompt": "be brief."},
    {"template": "chat", "chat_template_kwargs": {"shout": True}},
]


def chat_tokenizer(*, with_bos: bool):
    """Its chat template takes an option, and it may put a token before every text."""
    made = tiny_chat.tokenizer()
    made.chat_template = "{% if shout is defined %}!{% endif %}" + tiny_chat.CHAT_TEMPLATE
    if with_bos:
        made.add_special_tokens({"bos_token": "<bos>"})
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", made.bos_token_id)]
        )
    return made


def tokens_trainer(tokenizer, chat_template_kwargs) -> GRPOTrainer:
    """A trainer that is asked for its tokens only."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.processing_class, trainer.tools, trainer.environment_factories = tokenizer, None, None
    trainer.chat_template, trainer._is_vlm = None, False
    trainer.chat_template_kwargs = chat_template_kwargs or {}
    return trainer


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "own.jsonl"
    rows = [{"problem": text, "answers": ["2"]} for text in PROBLEMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trained_on(file: str, tokenizer, options: dict) -> list[list[int]]:
    options = dict(options)
    chat_template_kwargs = options.pop("chat_template_kwargs", None)
    rows = load_dataset("json", data_files=file, split="train")
    prepared = prepare_prompts(rows, prompt_column="problem", answer_column="answers", **options)
    ids, *_ = tokens_trainer(tokenizer, chat_template_kwargs)._tokenize_prompts(
        prepared["prompt"][:]
    )
    return ids


def stub_model(seen: list):
    """Notes the prompts without their padding, and ends at once."""
    model = tiny.model(vocab_size=200, max_position_embeddings=2048).eval()

    def generate(input_ids, attention_mask, **options):
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            seen.append([token for token, there in zip(ids, mask, strict=True) if there])
        return torch.cat([input_ids, torch.full((len(input_ids), 1), tiny.EOS)], 1)

    model.generate = generate
    return model


@pytest.mark.parametrize("with_bos", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_transformers(options, with_bos, file, tmp_path):
    tokenizer = chat_tokenizer(with_bos=with_bos)
    seen: list[list[int]] = []
    generator = TransformersGenerator(stub_model(seen), tokenizer, batch_size=2)
    sampling = Sampling(max_tokens=4, **options)
    evaluate(load_problem_set(file), generator, sampling, tmp_path, k=1, progress=False)
    assert seen == trained_on(file, tokenizer, options)
    assert all((ids[0] == tokenizer.bos_token_id) <= with_bos for ids in seen)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_vllm(options, vllm, file, tmp_path):  # noqa: F811
    tokenizer = chat_tokenizer(with_bos=True)
    generator = VLLMGenerator("model")
    generator.tokenizer = tokenizer
    sampling = Sampling(max_tokens=4, **options)
    evaluate(load_problem_set(file), generator, sampling, tmp_path, k=1, progress=False)
    [(prompts, _, _)] = vllm.generate
    assert [one["prompt_token_ids"] for one in prompts] == trained_on(file, tokenizer, options)


def test_messages_of_a_file_of_ones_own(tmp_path):
    """As training takes them: with a system message at most."""
    path = tmp_path / "chats.jsonl"
    messages = [[{"role": "user", "content": f"{text}\n"}] for text in PROBLEMS]
    path.write_text(
        "".join(json.dumps({"prompt": one, "answers": ["2"]}) + "\n" for one in messages)
    )
    tokenizer, seen = chat_tokenizer(with_bos=True), []
    rows = load_dataset("json", data_files=str(path), split="train")
    prepared = prepare_prompts(rows, system_prompt="be brief.")
    expected, *_ = tokens_trainer(tokenizer, {})._tokenize_prompts(prepared["prompt"][:])
    evaluate(
        load_problem_set(str(path), prompt_column="prompt"),
        TransformersGenerator(stub_model(seen), tokenizer, batch_size=2),
        Sampling(max_tokens=4, system_prompt="be brief."),
        tmp_path,
        k=1,
        progress=False,
    )
    assert seen == expected
    assert read_records(tmp_path / "chats" / "records.jsonl")[0].problem == messages[0]


def test_while_training(tmp_path, file):
    """The callback asks with the training's tokenizer and the options of its chat template."""
    tokenizer = chat_tokenizer(with_bos=True)
    trainer = tiny.trainer(
        tmp_path,
        model=tiny.model(vocab_size=len(tokenizer), max_position_embeddings=2048),
        processing_class=tokenizer,
        settings={"max_steps": 1, "chat_template_kwargs": {"shout": True}},
    )
    problems = load_problem_set(file)
    sampling = Sampling(template="none", conversational=True, max_tokens=2)
    callback = EvaluationCallback(trainer, problems, every=1, k=1, sampling=sampling)
    callback.on_train_begin(trainer.args, SimpleNamespace(global_step=0), None)
    records = read_records(tmp_path / "evaluation" / "own" / "step-0.jsonl")
    encoded = [tokenizer(one.prompt, add_special_tokens=False)["input_ids"] for one in records]
    prompts = [[{"role": "user", "content": text}] for text in PROBLEMS]
    ids, *_ = trainer._tokenize_prompts(prompts)
    assert encoded == ids
    assert records[0].prompt.startswith("!")


def test_a_benchmark_is_stripped_as_its_hash_is_and_a_file_of_ones_own_is_not(
    real_data, real_problems, tmp_path
):
    raw = [row["problem"] for row in real_problems("amc23")]
    named = load_problem_set(f"amc23={real_data / 'amc23.parquet'}")
    own = load_problem_set(str(real_data / "amc23.parquet"))
    assert any(text != text.strip() for text in raw)
    assert [one.problem for one in named.problems] == [text.strip() for text in raw]
    assert [one.problem for one in own.problems] == raw
    assert named.sha256 != own.sha256
