"""The model card: what it says, what it keeps to itself, and what no text can do to it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from huggingface_hub import ModelCard
from loopback_hub import TOKEN, front_matter_errors
from markdown_it import MarkdownIt
from peft import LoraConfig
from PIL import Image

from trl_lambda import LambdaGRPOConfig
from trl_lambda.config import method_of, trl_values
from trl_lambda.hub.citations import _entries, arxiv_id, bibtex, methods
from trl_lambda.hub.markdown import code_block, code_span
from trl_lambda.hub.plot import PLOT_FILE, write_reward_plot
from trl_lambda.hub.settings import run_settings, script_settings
from trl_lambda.scripts import train

NEUTRAL = {"method": "grpo", "loss_type": "grpo", "scale_rewards": "group"}
PAPERS = {
    "parthasarathi2025grpolambda": "2510.00194",
    "sullivan2025grpo": "2509.21154",
    "tran2025exploiting": "2509.18314",
    "schulman2015high": "1506.02438",
    "liu2025understanding": "2503.20783",
    "yu2025dapo": "2503.14476",
    "minimax2025minimaxm1": "2506.13585",
    "gao2025soft": "2511.20347",
    "zheng2025group": "2507.18071",
    "liu2026length": "2602.05261",
    "shen2026vespo": "2602.10693",
    "liu2025tricks": "2508.08221",
    "liu2026gdpo": "2601.05242",
    "wang2025beyond": "2506.01939",
    "gorbatovski2024learn": "2404.09656",
    "deepseekai2025v32": "2512.02556",
    "he2025skywork": "2505.22312",
    "primeintellect2025intellect2": "2505.07291",
}


def config(**settings) -> LambdaGRPOConfig:
    return LambdaGRPOConfig("out", use_cpu=True, bf16=False, report_to="none", **settings)


OURS = ("parthasarathi2025grpolambda", "sullivan2025grpo", "tran2025exploiting", "schulman2015high")


def used_by(config_: LambdaGRPOConfig):
    """The methods of a run with this config, as its trainer would have them."""
    method = method_of(config_)
    return methods(config_, method.values() | trl_values(config_, method))


@pytest.fixture(scope="module")
def script():
    """The training script, for its parser."""
    return train


# -- citations ---------------------------------------------------------------------------------


SWITCHES = [
    ({}, []),
    ({"trace_style": "recent"}, ["2510.00194"]),
    ({"trace_style": "recent", "trace_lambda": 0.0}, []),
    ({"trace_style": "both", "trace_lambda": 0.0}, ["2510.00194"]),
    ({"advantage_floor": -0.1}, ["2510.00194"]),
    ({"method": "default"}, []),
    ({"method": "default", "trace_style": "recent", "advantage_floor": -0.1}, ["2510.00194"]),
    ({"process_set_weighting": True}, ["2509.21154"]),
    ({"td_error": "tree"}, ["2509.18314"]),
    ({"td_error": "terminal"}, ["1506.02438"]),
    ({"td_error": "process"}, []),  # DeepSeekMath's own
    ({"td_error": "probe"}, ["1506.02438"]),
    ({"trace_style": "recent", "trace_lambda": "length"}, ["2510.00194"]),
    ({"loss_type": "dr_grpo"}, ["2503.20783"]),
    ({"scale_rewards": "none"}, ["2503.20783"]),
    ({"scale_rewards": "batch"}, ["2508.08221"]),
    ({"loss_type": "bnpo"}, []),
    ({"loss_type": "dapo"}, ["2503.14476"]),
    ({"mask_truncated_completions": True}, ["2503.14476"]),
    ({"epsilon_high": 0.28}, ["2503.14476"]),
    # A clip range of two equal sides is PPO's.
    ({"epsilon_high": 0.2}, []),
    ({"epsilon": 0.3, "epsilon_high": 0.3}, []),
    ({"epsilon": 0.3, "epsilon_high": 0.2}, ["2503.14476"]),
    ({"loss_type": "cispo", "epsilon_high": 5.0}, ["2506.13585"]),
    ({"loss_type": "sapo"}, ["2511.20347"]),
    ({"loss_type": "vespo"}, ["2602.10693"]),
    (
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        ["2602.05261", "2507.18071"],
    ),
    ({"importance_sampling_level": "sequence"}, ["2507.18071"]),
    ({"multi_objective_aggregation": "normalize_then_sum"}, ["2601.05242"]),
    ({"top_entropy_quantile": 0.2}, ["2506.01939"]),
    ({"beta": 0.04}, ["2512.02556"]),
    ({"beta": 0.04, "use_bias_correction_kl": False}, []),
    ({"off_policy_mask_threshold": 0.5}, ["2512.02556"]),
    ({"beta": 0.04, "use_bias_correction_kl": False, "sync_ref_model": True}, ["2404.09656"]),
    ({"use_adaptive_entropy": True}, ["2505.22312"]),
    ({"delta": 4.0}, ["2505.07291"]),
    ({"delta": 4.0, "loss_type": "sapo"}, ["2511.20347"]),
]


@pytest.mark.parametrize(("settings", "expected"), SWITCHES, ids=lambda x: str(x))
def test_papers_are_cited_whose_switches_are_on_and_no_others(settings, expected):
    made = config(**NEUTRAL | settings)
    used = used_by(made)
    ours = [m.key for m in used if m.key in OURS]
    assert [
        m.key for m in methods(made) if m.key in OURS
    ] == ours  # the config's rule says the same
    assert [arxiv_id(method.key) for method in used] == ["2402.03300", *expected]


def test_everything_at_once():
    settings = {"td_error": "tree", "trace_style": "both", "process_set_weighting": True}
    used = used_by(config(**settings, loss_type="dr_grpo", scale_rewards="none", beta=0.1))
    assert [m.name for m in used] == [
        "GRPO",
        "GRPO-λ",
        "λ-GRPO",
        "TEMPO",
        "Dr. GRPO",
        "DeepSeek-V3.2",
    ]
    assert [m.tag for m in used if m.tag] == [
        "grpo",
        "grpo-lambda",
        "lambda-grpo",
        "tempo",
        "dr-grpo",
    ]


def test_every_entry_is_whole_and_reachable():
    reachable = {m.key for settings, _ in SWITCHES for m in used_by(config(**NEUTRAL | settings))}
    assert _entries().keys() == reachable | {"vonwerra2020trl"}
    assert {key: arxiv_id(key) for key in PAPERS} == PAPERS
    for key in _entries():
        entry = bibtex([key])
        assert entry.count("{") == entry.count("}")
        for name in ("title", "author", "year"):
            assert re.search(rf"^  {name}\s+= \S", entry, re.M), (key, name)


# -- settings ----------------------------------------------------------------------------------


def read_back(script, text: str, folder: Path):
    file = folder / "read_back.yaml"
    file.write_text(text)
    return script.make_parser().parse_args_and_config(["--config", str(file)])


@pytest.mark.parametrize("which", ["card", "file"])
def test_the_settings_are_those_of_the_run_when_read_back(script, tmp_path, which):
    settings = {
        "td_error": "tree",
        "trace_style": "both",
        "trace_lambda": 0.95,
        "learning_rate": 1e-6,
        "reward_weights": [0.5],
        "generation_kwargs": {"repetition_penalty": 1.1, "stop": ["</answer>", "'\"\n"]},
        "save_strategy": "steps",
        "lr_scheduler_type": "cosine",
        "gradient_accumulation_steps": 2,
    }
    trainer = tiny.trainer(
        tmp_path / "run",
        settings=settings,
        peft_config=LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"]),
    )
    trainer.card_settings = {"dataset_name": "openai/gsm8k", "conversational": True}
    trainer.create_model_card(tags="mine")
    text = (tmp_path / "run" / "training_config.yaml").read_text()
    if which == "card":
        card = (tmp_path / "run" / "README.md").read_text()
        text = re.search(r"```yaml\n(.*?)\n```", card, re.S)[1]
    task, sources, config, model, _ = read_back(script, text, tmp_path)
    there, here = vars(config), vars(trainer.args)
    elsewhere = {"output_dir", "logging_dir"} | {n for n in there if n not in config.to_dict()}
    different = {n for n in there if there[n] != here[n]} - elsewhere
    assert different == set()
    assert sources.dataset_name == "openai/gsm8k"
    assert task.conversational is True
    assert task.reward_funcs == ["tiny.letter_reward"]
    assert (model.use_peft, model.lora_r, model.lora_alpha) == (True, 4, 12)
    assert sorted(model.lora_target_modules) == ["q_proj", "v_proj"]


def test_a_scripts_settings_are_what_was_set(script):
    options = "--model_name_or_path a/b --dataset_name c/d --reward_funcs math --lora_r 8"
    options += " --use_cpu --bf16 false"
    task, sources, _, model, mixture = script.make_parser().parse_args_into_dataclasses(
        options.split()
    )
    assert script_settings(task, sources, model, mixture) == {
        "reward_funcs": ["math"],
        "dataset_name": "c/d",
        "model_name_or_path": "a/b",
        "lora_r": 8,
    }


def test_nothing_secret_and_no_path_is_shown(tmp_path):
    (tmp_path / "problems").mkdir()
    secret = "hf_abcdefghijklmnopqrstuvwx"
    config_ = config(
        hub_token="short",
        model_init_kwargs={"token": secret, "cache_dir": "/scratch/cache", "dtype": "bfloat16"},
        chat_template_kwargs={"enable_thinking": False, "note": f"bearer {secret}"},
        generation_kwargs={"stop": ["END", f"{tmp_path}/problems"], "own": "it is short"},
        vllm_server_base_url="http://me:pw@10.0.0.7:8000",
        resume_from_checkpoint=str(tmp_path),
        run_name=str(tmp_path),
    )
    script = {
        "dataset_name": str(tmp_path / "problems"),
        "model_name_or_path": "~/models/mine",
        "system_prompt": "/think about it",
        "reward_funcs": ["math", "C:\\Users\\me\\reward.py"],
    }
    settings = run_settings(config_, script, secrets=("short",))
    text = settings.as_yaml() + settings.shown_in_card([], LambdaGRPOConfig)
    for hidden in (secret, "short", "/scratch", str(tmp_path), "10.0.0.7", "~/models", "Users"):
        assert hidden not in text
    read = yaml.safe_load(settings.as_yaml())
    assert read["model_init_kwargs"] == {"dtype": "bfloat16"}
    assert read["generation_kwargs"] == {"stop": ["END"]}
    assert read["reward_funcs"] == ["math"]
    assert read["system_prompt"] == "/think about it"
    for name in ("hub_token", "model_init_kwargs.token", "run_name", "dataset_name"):
        assert name in settings.left_out


HIDDEN = {
    "x-api-key": "planted",
    "wandb_key": "planted",
    "WANDB_API_KEY": "planted",
    "headers": {"Authorization": "Bearer planted"},
    "auth": ["me", "planted"],
    "judge": "https://me:planted@judge.example/v1",
    "note": "use sk-planted0 for it",
    "env": ["HF_TOKEN=planted", "--password=planted"],
    "sk-planted1": 1,
    "of sk-planted2\nlearning_rate: 9.0\n#": {"secret": "planted"},
}


@pytest.mark.parametrize("place", ["generation_kwargs", "chat_template_kwargs", "script"])
def test_secrets_of_all_kinds_stand_in_no_setting(place):
    given = {} if place == "script" else {place: HIDDEN | {"kept": 7}}
    settings = run_settings(config(**given), HIDDEN | {"kept": 7} if place == "script" else {})
    for text in (settings.as_yaml(), settings.shown_in_card([], LambdaGRPOConfig)):
        assert "planted" not in text
        read = yaml.safe_load(text)
        assert (read if place == "script" else read[place])["kept"] == 7
        assert read.get("learning_rate") != 9.0  # a name breaks out of no comment
        assert "WANDB_API_KEY" in text.splitlines()[-1]


def test_secrets_stand_nowhere_else_in_the_card(tmp_path):
    def reward(completions, log_metric, **columns):
        log_metric("calls with hf_planted0123456789abcdef", 1.0)
        return [float(len(c)) for c in completions]

    reward.__name__ = "judge_sk-planted0"
    data = tiny.prompts().add_column("ghp_planted0123456789abcdef", [0] * 8)
    trainer = tiny.trainer(
        tmp_path / "run", reward_funcs=reward, train_dataset=data, settings={"max_steps": 1}
    )
    trainer.train()
    trainer.create_model_card("sk-planted1", dataset_name="sk-planted2", tags=["sk-planted3"])
    text = (tmp_path / "run" / "README.md").read_text()
    assert "planted" not in text
    assert "judge_SECRET-LEFT-OUT" in text
    assert front_matter_errors(text) == []


def test_who_reads_the_settings_back_pushes_nothing():
    pushing = config(push_to_hub=True, hub_model_id="somebody/x", hub_strategy="checkpoint")
    text = run_settings(pushing, {}).as_yaml()
    assert "hub" not in text


def test_a_very_long_value_stands_in_the_file_only(tmp_path):
    settings = run_settings(config(), {"system_prompt": "x" * 10**6})
    assert len(settings.shown_in_card([], LambdaGRPOConfig)) < 5000
    assert "# system_prompt: too long" in settings.shown_in_card([], LambdaGRPOConfig)
    assert yaml.safe_load(settings.as_yaml())["system_prompt"] == "x" * 10**6


# -- the card ----------------------------------------------------------------------------------

HOSTILE = (
    "x'\"`</code></pre><script>alert(1)</script>\n---\nbase_model: evil\n---\n"
    "# Title\n| a | b |\n```\n[link](javascript:alert(1))![i](http://e.vil/x.png) {{ 7*7 }} \u202e$"
)


def test_no_text_breaks_out_of_the_card(tmp_path):
    def reward(completions, log_metric, **columns):
        log_metric(HOSTILE, 1.0)
        return [float(len(c)) for c in completions]

    reward.__name__ = HOSTILE
    data = tiny.prompts().rename_column("gold", HOSTILE)
    settings = {"max_steps": 1, "generation_kwargs": {"stop": [HOSTILE]}}
    trainer = tiny.trainer(
        tmp_path / "run", reward_funcs=reward, settings=settings, train_dataset=data
    )
    trainer.train()
    trainer.card_settings = {"model_name_or_path": HOSTILE, "system_prompt": HOSTILE}
    trainer.create_model_card(model_name=HOSTILE, dataset_name=HOSTILE, tags=[HOSTILE])
    text = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")

    assert front_matter_errors(text) == []
    front = ModelCard(text).data.to_dict()
    assert "base_model" not in front
    assert "datasets" not in front
    assert "\u202e" not in text
    block = text.split("\n---\n", 1)[0]
    assert yaml.safe_load(block.removeprefix("---"))["library_name"] == "transformers"

    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [child for token in tokens for child in token.children or []]
    assert [t.content for t in [*tokens, *inline] if t.type.startswith("html")] == []
    links = {t.attrGet("href") for t in inline if t.type == "link_open"}
    assert all(re.match(r"https://|training_config\.yaml$", link) for link in links)
    assert {t.attrGet("src") for t in inline if t.type == "image"} == {PLOT_FILE}
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings[1:] == [
        "Use",
        "Training",
        "Metrics",
        "Settings",
        "Versions",
        "Citations",
    ]
    # The table of metrics kept its columns: each row's cells are code, numbers, a step.
    rows = [line for line in body.splitlines() if "alert" in line and line.startswith("| `")]
    assert rows
    assert all(len(re.findall(r"(?<!¦)\|", row)) == 5 for row in rows)
    blocks = [t for t in tokens if t.type == "fence"]
    assert [t.info for t in blocks] == ["python", "yaml", "bibtex"]
    assert yaml.safe_load(blocks[1].content)["system_prompt"] == HOSTILE


@pytest.mark.parametrize("text", ["a\n```\n# b", "`````\n<b>", "~~~", "`", ""])
def test_a_block_of_code_ends_where_it_should(text):
    (block,) = MarkdownIt("gfm-like", {"linkify": False}).parse(code_block(text, "yaml"))
    assert (block.type, block.info, block.content.strip()) == ("fence", "yaml", text)


@pytest.mark.parametrize("text", ["`", "``x`", "a`b", " ", "", "\n\n# x", "<b>&amp;</b>", "\\"])
def test_a_span_of_code_ends_where_it_should(text):
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(f"| {code_span(text)} | b |")
    first, *rest = parsed[1].children
    assert (first.type, first.content.strip()) == ("text", "|")
    assert [t.type for t in rest] == ["code_inline", "text"]
    assert rest[0].content.strip() == text.strip()


def test_a_checkpoint_and_a_saved_model_have_the_card(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = tiny.trainer(tmp_path / "run", settings=settings)
    trainer.train()
    trainer.save_model(str(tmp_path / "elsewhere"))
    steps = {"run": 2, "run/checkpoint-1": 1, "run/checkpoint-2": 2, "elsewhere": 2}
    for folder, step in steps.items():
        text = (tmp_path / folder / "README.md").read_text()
        assert re.search(rf"\| Optimiser steps \| {step}\b", text)
        assert ("not finished" in text) == (step < 2)
        assert Image.open(tmp_path / folder / PLOT_FILE).size[0] > 500
        assert (tmp_path / folder / "training_config.yaml").exists()
        assert list((tmp_path / folder).glob("_*")) == []
        assert str(tmp_path) not in text


def test_the_card_has_what_trained_where_the_settings_leave_it_to_the_method(tmp_path):
    unset = dict.fromkeys(tiny.TRACED)
    trainer = tiny.trainer(tmp_path / "run", settings=unset | {"method": "tempo"})
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|$", text, re.M))
    assert (table["td_error"], table["trace_style"]) == ("tree", "none")
    assert table["advantage_floor"] == "no bound"
    assert "The method was `tempo`." in text
    assert "td_error: null" not in text
    assert "method: tempo" in text
    assert "TEMPO: [arXiv:2509.18314]" in text


def test_metrics_are_the_first_and_the_last_value(tmp_path):
    trainer = tiny.trainer(tmp_path / "run", settings={"max_steps": 3, "beta": 0.1})
    trainer.train()
    trainer.create_model_card()
    table = dict(
        re.findall(r"^\| `([^`]+)` \| (.*) \|$", (tmp_path / "run" / "README.md").read_text(), re.M)
    )
    logged = [e for e in trainer.state.log_history if "reward" in e]
    for name in ("reward", "process_sets/path_depth", "trace/gain_first_tenth", "kl"):
        first, last, step = table[name].split(" | ")
        assert float(first) == pytest.approx(logged[0][name], rel=1e-4)
        assert float(last) == pytest.approx(logged[-1][name], rel=1e-4)
        assert step == "3"
    assert not {"step_time", "epoch", "train_runtime"} & table.keys()


def test_names_on_the_hub_are_linked_and_local_ones_kept_back(tmp_path):
    trainer = tiny.trainer(tmp_path / "run")
    trainer.card_settings = {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B",
        "dataset_name": "openai/gsm8k",
    }
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    front = ModelCard(text).data
    assert (front.base_model, front.datasets) == ("Qwen/Qwen2.5-0.5B", ["openai/gsm8k"])
    assert "(https://huggingface.co/datasets/openai/gsm8k)" in text
    (tmp_path / "data.jsonl").write_text("{}")
    trainer.create_model_card(dataset_name=str(tmp_path / "data.jsonl"))
    text = (tmp_path / "run" / "README.md").read_text()
    assert "data.jsonl" not in text
    assert ModelCard(text).data.datasets is None
    assert "8 rows with the columns `prompt`, `gold`" in text


# -- the plot ----------------------------------------------------------------------------------

LOGS = [{"step": s, "reward": 0.1 * s, "reward_std": 0.2} for s in range(1, 40)]


def test_the_plot_shows_the_reward(tmp_path):
    flat = [entry | {"reward": 0.5} for entry in LOGS]
    pictures = []
    for logs in (LOGS, flat, [*LOGS, {"step": 20, "eval_reward": 3.0}]):
        assert write_reward_plot(logs, tmp_path) is None
        pictures.append((tmp_path / PLOT_FILE).read_bytes())
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    "logs", [[], [{"step": 1, "loss": 1.0}], [{"step": 1, "reward": float("nan")}]]
)
def test_without_rewards_there_is_no_plot_and_the_card_says_so(tmp_path, logs):
    assert write_reward_plot(logs, tmp_path) == "no reward was logged yet"
    assert not (tmp_path / PLOT_FILE).exists()


def test_without_matplotlib_the_card_says_that_there_is_no_plot(tmp_path, monkeypatch):
    trainer = tiny.trainer(tmp_path / "run", settings={"max_steps": 1})
    trainer.train()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    assert "no plot of the reward: matplotlib was not installed" in text
    assert PLOT_FILE not in text


def test_the_token_of_the_environment_is_a_secret_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "environmenttoken")
    trainer = tiny.trainer(tmp_path / "run")
    trainer.card_settings = {"system_prompt": "use environmenttoken", "note": TOKEN}
    trainer.create_model_card()
    for name in ("README.md", "training_config.yaml"):
        text = (tmp_path / "run" / name).read_text()
        assert "environmenttoken" not in text
        assert TOKEN not in text
