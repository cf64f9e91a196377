"""The model card: what was trained, on what, how, with which result, and whom to cite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCardData

from ..versions import installed_versions
from .citations import TRL, arxiv_id, bibtex, methods
from .markdown import code_block, code_span, hub_link, is_repo_id, one_line
from .plot import PLOT_FILE
from .settings import Settings
from .usage import PromptForm, use_section

CONFIG_FILE = "training_config.yaml"
HOME = "https://github.com/trl-lambda/trl-lambda"
PACKAGES = ("trl", "transformers", "torch", "datasets", "tokenizers", "peft", "vllm")
# Timings and counters say nothing of the model.
NOT_METRICS = ("epoch", "step", "total_flos", "num_tokens", "learning_rate")
TIMINGS = ("runtime", "per_second", "step_time", "profiling/")


@dataclass
class Run:
    """Facts of a run, for its card. Names of models and data sets are those on the Hub, or None.

    Attributes:
        name: the model's.
        hub_id: the repository it goes to.
        base_model: the model that was trained further; None if it came from this machine.
        adapter: kind and size of the PEFT adapter; None if all weights were trained.
        dataset: its name on the Hub.
        dataset_facts: further facts of the data set: rows, columns.
        reward_names: the reward functions'.
        config: the `GRPOConfig`.
        method: the method's name under "method" and, by option, what trains; empty if not known.
        settings: the same and the script's, fit to be published.
        log_history, step, max_steps: the trainer's state.
        processes: how many trained.
        prompts: their form; None where it is not known.
        vision: whether the model takes images.
        no_plot: why there is no plot; None if there is one.
        tags: further ones for the front matter.
        links: to trackers, by name.
    """

    name: str
    hub_id: str | None
    base_model: str | None
    adapter: str | None
    dataset: str | None
    dataset_facts: str
    reward_names: list[str]
    config: Any
    method: Mapping[str, Any]
    settings: Settings
    log_history: list[dict[str, Any]]
    step: int
    max_steps: int
    processes: int
    prompts: PromptForm | None
    vision: bool = False
    no_plot: str | None = None
    tags: list[str] = field(default_factory=list)
    links: Mapping[str, str] = field(default_factory=dict)


def model_card(run: Run, *, always_shown: list[str], config_class: type) -> str:
    """The text of README.md, front matter and all.

    Args:
        always_shown: settings that stand in the card also where they have their defaults.
        config_class: its defaults need not be shown.
    """
    sections = [
        f"---\n{_front_matter(run)}\n---",
        f"# {run.name if is_repo_id(run.name) else code_span(run.name)}",
        _summary(run),
        _use(run),
        "## Training\n\n" + _facts(run),
        _plot(run),
        "### Metrics\n\n" + _metric_table(run.log_history),
        "### Settings\n\n" + _method(run) + _settings(run, always_shown, config_class),
        "### Versions\n\n" + _versions(),
        "## Citations\n\n" + _citations(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(run: Run) -> str:
    own = [method.tag for method in methods(run.config, run.method) if method.tag]
    given = [one_line(str(tag), 100) for tag in run.tags]
    data = ModelCardData(
        base_model=run.base_model,
        datasets=[run.dataset] if run.dataset else None,
        library_name="peft" if run.adapter else "transformers",
        model_name=one_line(run.name),
        pipeline_tag="image-text-to-text" if run.vision else "text-generation",
        tags=list(dict.fromkeys([*given, *own])),
    )
    return data.to_yaml()


def _summary(run: Run) -> str:
    base = hub_link(run.base_model) if run.base_model else ""
    if run.adapter:
        what = f"A {run.adapter} adapter{f' for {base}' if base else ''}"
    else:
        what = f"{base}, with all weights" if base else "A language model, all weights"
    on = hub_link(run.dataset, kind="datasets/") if run.dataset else run.dataset_facts
    return (
        f"{what} trained on {on} by reinforcement learning, with "
        "[TRL](https://github.com/huggingface/trl) and the `LambdaGRPOTrainer` of "
        f"[trl-lambda]({HOME})."
    )


def _use(run: Run) -> str:
    if run.vision:
        return ""
    return use_section(
        run.prompts,
        repo=run.hub_id or "REPOSITORY",
        adapter=run.adapter is not None,
        max_new_tokens=run.config.max_completion_length or 256,
        chat_template_kwargs=run.settings.values.get("chat_template_kwargs"),
    )


def _facts(run: Run) -> str:
    steps = str(run.step)
    if run.max_steps > run.step:
        steps += f" of {run.max_steps}: training was not finished when this was saved"
    base = hub_link(run.base_model) if run.base_model else "not on the Hub"
    data = f"{hub_link(run.dataset, kind='datasets/')}, " if run.dataset else ""
    rows = {
        "Base model": base,
        "Trained": f"{run.adapter} adapter" if run.adapter else "all weights",
        "Data set": data + run.dataset_facts,
        "Rewards": ", ".join(code_span(name) for name in run.reward_names) or "none",
        "Optimiser steps": steps,
        "Processes": str(run.processes),
    }
    for name, url in run.links.items():
        rows[name] = f"<{url}>" if _is_plain_url(url) else code_span(url)
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _is_plain_url(url: str) -> bool:
    return url.startswith("https://") and not set(url) & set("<>|`\"'\\ \n\t") and url.isascii()


def _plot(run: Run) -> str:
    if run.no_plot:
        return f"There is no plot of the reward: {run.no_plot}."
    return f"![Mean reward over optimiser steps]({PLOT_FILE})"


def _metric_table(log_history: list[dict[str, Any]]) -> str:
    """First and last value of all that was logged, rewards and evaluations first."""
    first, last = {}, {}
    for entry in log_history:
        for name, value in entry.items():
            if _is_metric(name, value):
                first.setdefault(name, value)
                last[name] = (value, entry.get("step", ""))
    if not last:
        return "None were logged."
    lines = [
        f"| {code_span(name)} | {first[name]:.5g} | {last[name][0]:.5g} | {last[name][1]} |"
        for name in sorted(last, key=_place)
    ]
    return "\n".join(
        [
            "As first and last logged, each the mean over the steps since the log before; formulas "
            f"in [trl-lambda's README]({HOME}#metrics) and "
            "[TRL's documentation](https://huggingface.co/docs/trl/grpo_trainer#logged-metrics).",
            "",
            "| metric | first | last | at step |",
            "|---|---|---|---|",
            *lines,
        ]
    )


def _is_metric(name: str, value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or name in NOT_METRICS:
        return False
    return not any(word in name for word in TIMINGS)


def _place(name: str) -> tuple[int, str]:
    order = (("reward",), ("eval_",), ("process_sets/", "trace/", "groups/"))
    for place, beginnings in enumerate(order):
        if name.startswith(beginnings):
            return place, name
    return len(order), name


def _method(run: Run) -> str:
    """The options of the method as they trained, also where the settings leave them to it."""
    if not run.method:
        return ""
    name, rest = run.method.get("method"), {n: v for n, v in run.method.items() if n != "method"}
    lines = [f"| `{option}` | {code_span(_plain(value))} |" for option, value in rest.items()]
    what = f"The method was {code_span(name)}. " if name else ""
    table = "\n".join(["| option | value |", "|---|---|", *lines])
    return f"{what}What trained, also where the settings left it to the method:\n\n{table}\n\n"


def _plain(value: Any) -> str:
    return "no bound" if value == -math.inf else str(value)


def _settings(run: Run, always_shown: list[str], config_class: type) -> str:
    shown = run.settings.shown_in_card(always_shown, config_class)
    return (
        "What differs from the defaults, and the method; all of it stands in "
        f"[`{CONFIG_FILE}`]({CONFIG_FILE}). `accelerate launch recipes/grpo_lambda.py --config "
        f"{CONFIG_FILE} --output_dir out` of [trl-lambda]({HOME}) reads either.\n\n"
        + code_block(shown, "yaml")
    )


def _versions() -> str:
    names = {"python": "Python", "trl_lambda": "trl-lambda"}
    found = installed_versions(*PACKAGES)
    return "\n".join(f"- {names.get(name, name)}: {found[name]}" for name in found if found[name])


def _citations(run: Run) -> str:
    used = methods(run.config, run.method)
    lines = ["TRL, and the papers behind the settings that were on:", ""]
    for method in used:
        why = f" (`{method.switch}`)" if method.switch else ""
        number = arxiv_id(method.key)
        lines.append(f"- {method.name}: [arXiv:{number}](https://arxiv.org/abs/{number}){why}")
    return "\n".join(lines) + "\n\n" + code_block(bibtex([TRL, *(m.key for m in used)]), "bibtex")
