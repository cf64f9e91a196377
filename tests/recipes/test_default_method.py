"""The rule for `method="default"`, held against the evidence that is committed.

A method becomes the default where it ends no worse than TRL's tuned GRPO on every task: those of
`learning`, the language model and the quickstart, and better on two. Until one does, the default is
TRL's GRPO. What is checked here is necessary, not sufficient: a mean in the place of an interval
where the quickstart keeps no more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.language import arms
from benchmarks.learning.report import read_results
from benchmarks.learning.verdict import MARGIN
from quickstart_parts.settings import METHOD

from trl_lambda.methods import METHODS, NEUTRAL, OPTIONS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "benchmarks" / "results"


def trained(told: dict) -> dict:
    """All options of credit, as they train: unset ones are neutral, or as TRL has them."""
    return {
        name: told.get(name) if told.get(name) is not None else NEUTRAL[name]
        for name in OPTIONS
        if name not in ("loss_type", "scale_rewards")
    }


def preset(method: str) -> dict:
    return {option: value for option, (value, _) in METHODS[method].values.items()}


def full(told: dict) -> dict:
    """A method's name and what is set beside it, as all options."""
    return preset(told["method"]) | {name: v for name, v in told.items() if name != "method"}


def verdicts_in_learning(told: dict) -> list[str | None]:
    """The verdict on each task that measures what it says; None where it was not trained."""
    data = read_results(RESULTS / "learning.json")
    for name, of in data["settings"].items():
        ours = of["trainer"] == "LambdaGRPOTrainer"
        if ours and of["steps_share"] == 1 and trained(full(of["told"])) == trained(told):
            tasks = [task for task, entry in data["tasks"].items() if not entry["faults"]]
            found = [data["results"].get(f"{name} | {task}", {}) for task in tasks]
            return [entry.get("verdict") for entry in found]
    return [None]


def verdict_on_language(told: dict) -> str | None:
    """The rule's verdict on the language model; None where the method was not trained there."""
    path = RESULTS / "language.json"
    data = json.loads(path.read_text()) if path.exists() else {"arms": {}}
    for name, entry in data["arms"].items():
        if trained(full(arms.settings(name))) == trained(told):
            return entry.get("verdict")
    return None


def level_in_quickstart(told: dict) -> bool:
    """Whether the quickstart trains with it, and ends no more than the margin behind on average."""
    if trained(told) != trained(preset(METHOD)):
        return False
    runs = json.loads((RESULTS / "quickstart.json").read_text())["seeds"]
    gains = [run["accuracy_after"] - run["accuracy_after_grpo"] for run in runs]
    return sum(gains) / len(gains) >= MARGIN


def passes(told: dict) -> bool:
    verdicts = [*verdicts_in_learning(told), verdict_on_language(told)]
    everywhere = all(verdict in ("level", "better") for verdict in verdicts)
    return everywhere and level_in_quickstart(told) and verdicts.count("better") >= 2


def test_the_default_is_trl_s_grpo_until_a_method_has_passed_the_rule():
    default = preset("default")
    assert default == {} or passes(default)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"default", "grpo", "dr_grpo", "dapo"}))
def test_no_method_has_passed(method):
    """When one does, this fails: it is time to think about the default."""
    assert not passes(preset(method))


@pytest.mark.parametrize("method", ["branch", "grpo_lambda", "lambda_grpo"])
def test_methods_are_found_in_the_results(method):
    assert None not in verdicts_in_learning(preset(method))
