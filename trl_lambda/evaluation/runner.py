"""Runs an evaluation: samples, scores, writes, and takes up where a killed run left off.

    >>> problems = load_problem_set("math500")
    >>> generator = TransformersGenerator.load("Qwen/Qwen2.5-Math-1.5B")
    >>> summary = evaluate(problems, generator, Sampling(), "runs/qwen")

The folder then holds `math500/settings.json`, `records.jsonl` (one line a sample) and
`summary.json`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from trl_lambda.atomic_write import replace_json
from trl_lambda.evaluation.generate import Generator, Request, Sampling, sample_seed
from trl_lambda.evaluation.problem_rows import Question
from trl_lambda.evaluation.problem_sets import ProblemSet
from trl_lambda.evaluation.records import Record, RecordFile
from trl_lambda.evaluation.scoring import (
    MATH,
    Rewards,
    check_rewards,
    grade_batch,
    judges_math,
    reward_batch,
)
from trl_lambda.evaluation.settings import check_settings, describe, read_settings
from trl_lambda.evaluation.summary import summarize
from trl_lambda.templates import Messages, PromptForm, as_text

Key = tuple[int, int]  # problem and sample
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def evaluate(
    problem_set: ProblemSet,
    generator: Generator,
    sampling: Sampling,
    output_dir: str | Path,
    *,
    k: int | None = None,
    rewards: Rewards = MATH,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluates a model on a problem set.

    Args:
        problem_set: From `load_problem_set`.
        generator: It samples the completions.
        sampling: How it samples.
        output_dir: Folder for the results; they go into `output_dir/<name of the set>`.
        k: Samples a problem; `None` for the set's own.
        rewards: Functions that score a sample, by the name that the tables show, as TRL's
            trainers take them. The math reward gives avg@k, pass@k and maj@k, another function
            the mean of what it returns.
        resume: Take up records that are there. `False` begins anew and deletes them.
        progress: Whether to show a progress bar, with samples and tokens a second.

    Returns:
        The content of `summary.json`, see `summarize`.

    Raises:
        ValueError: The folder holds records of other settings, temperature is 0 with k > 1, a
            prompt is too long for the model, or see `check_rewards`.
    """
    prepared = prepare(
        problem_set, generator, sampling, output_dir, k=k, rewards=rewards, resume=resume
    )
    return prepared.run(progress=progress)


@dataclass(frozen=True)
class PreparedRun:
    """An evaluation of which all was checked that can be before anything is sampled."""

    problem_set: ProblemSet
    generator: Generator
    sampling: Sampling
    k: int
    rewards: Rewards
    batch_size: int
    settings: Mapping[str, Any]
    folder: Path
    resume: bool

    def run(self, *, progress: bool = True) -> dict[str, Any]:
        """Samples what is missing, writes the results and returns the summary."""
        if not self.resume:
            (self.folder / "records.jsonl").unlink(missing_ok=True)
            (self.folder / "settings.json").unlink(missing_ok=True)
        with RecordFile(self.folder / "records.jsonl") as file:
            check_settings(self.folder, self.settings, fresh=not file.records)
            if not file.records:
                replace_json(self.folder / "settings.json", self.settings)
            self._sample(file, progress)
            summary = summarize(list(file.records.values()), self.settings)
        replace_json(self.folder / "summary.json", summary)
        return summary

    def _sample(self, file: RecordFile, progress: bool) -> None:
        batches = plan(len(self.problem_set.problems), self.k, self.batch_size)
        # A batch that a kill cut in two is sampled as a whole, to have the same numbers.
        left = [batch for batch in batches if any(key not in file.records for key in batch)]
        total, waiting = sum(map(len, batches)), sum(map(len, left))
        with tqdm(
            total=total,
            initial=total - waiting,
            desc=self.problem_set.name,
            bar_format=BAR,
            disable=not progress,
        ) as bar:
            samples, tokens, begun = 0, 0, time.perf_counter()
            for batch in left:
                records = run_batch(
                    batch, self.problem_set, self.generator, self.sampling, self.rewards
                )
                file.append(records)
                samples += len(records)
                tokens += sum(record.num_tokens for record in records)
                bar.set_postfix_str(speed(samples, tokens, time.perf_counter() - begun), False)
                bar.update(len(batch))


def prepare(
    problem_set: ProblemSet,
    generator: Generator,
    sampling: Sampling,
    output_dir: str | Path,
    *,
    k: int | None = None,
    rewards: Rewards = MATH,
    resume: bool = True,
) -> PreparedRun:
    """Checks an evaluation without sampling anything; arguments and errors as for `evaluate`.

    With several sets prepare all of them and then run them, so that what is wrong with the last is
    found before the first has taken its hours.
    """
    k = problem_set.default_k if k is None else k
    sampling = resolve(sampling, problem_set, k)
    check_rewards(rewards, problem_set.problems, problem_set.source)
    prompts = [
        prompt_text(one.problem, sampling, generator.tokenizer) for one in problem_set.problems
    ]
    generator.check(prompts, sampling)
    folder = Path(output_dir) / problem_set.name
    folder.mkdir(parents=True, exist_ok=True)
    recorded = _settings_of_records(folder) if resume else None
    batch_size = _batch_size(generator, prompts, sampling, recorded)
    settings = describe(problem_set, generator, sampling, k, rewards=rewards, batch_size=batch_size)
    check_settings(folder, settings, fresh=recorded is None)
    return PreparedRun(
        problem_set, generator, sampling, k, rewards, batch_size, settings, folder, resume
    )


def _settings_of_records(folder: Path) -> Mapping[str, Any] | None:
    """The settings of the records that are there; `None` where there are none yet."""
    if not (folder / "records.jsonl").exists():
        return None
    with RecordFile(folder / "records.jsonl") as file:
        return read_settings(folder) if file.records else None


def _batch_size(
    generator: Generator,
    prompts: Sequence[str],
    sampling: Sampling,
    recorded: Mapping[str, Any] | None,
) -> int:
    """The generator's, or one that suits; a run that goes on keeps the one it began with."""
    if generator.batch_size is not None:
        return generator.batch_size
    began_with = (recorded or {}).get("generator", {}).get("batch_size")
    return began_with or generator.suitable_batch_size(prompts, sampling)


def resolve(sampling: Sampling, problem_set: ProblemSet, k: int) -> Sampling:
    """The sampling with the set's template where none is asked for.

    Raises:
        ValueError: k < 1, temperature 0 with k > 1, or options of the prompt that do not go
            together or with the set's problems.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1 sample a problem.")
    if sampling.temperature == 0 and k > 1:
        raise ValueError(
            f"{problem_set.name}: temperature is 0 and k is {k}, but all samples of a "
            "problem would be equal. Expected k = 1, or a temperature above 0."
        )
    sampling = replace(sampling, template=sampling.template or problem_set.template)
    for one in problem_set.problems:
        prompt = prompt_of(one.problem, sampling)
    if problem_set.is_conversational:
        return replace(sampling, conversational=True)
    if sampling.chat_template_kwargs and isinstance(prompt, str):
        raise ValueError(
            f"{problem_set.name}: chat_template_kwargs {dict(sampling.chat_template_kwargs)}, but "
            f"template {sampling.template} uses no chat template. Leave them out, or use template "
            "chat or conversational."
        )
    return sampling


def prompt_of(problem: Question, sampling: Sampling) -> str | Messages:
    """The prompt as the training's data would have it, a text or messages.

    Args:
        problem: The problem.
        sampling: With its template set.
    """
    # Messages are conversational by themselves.
    conversational = sampling.conversational and isinstance(problem, str)
    form = PromptForm(str(sampling.template), conversational, sampling.system_prompt)
    return form.apply(problem)


def prompt_text(problem: Question, sampling: Sampling, tokenizer: Any) -> str:
    """The text that the model continues."""
    return as_text(prompt_of(problem, sampling), tokenizer, sampling.chat_template_kwargs)


def plan(num_problems: int, k: int, batch_size: int) -> list[tuple[Key, ...]]:
    """All samples in batches that do not depend on what is done already."""
    keys = [(problem, sample) for problem in range(num_problems) for sample in range(k)]
    return [tuple(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)]


def run_batch(
    batch: Sequence[Key],
    problem_set: ProblemSet,
    generator: Generator,
    sampling: Sampling,
    rewards: Rewards = MATH,
) -> list[Record]:
    """Samples and scores a batch."""
    problems = [problem_set.problems[problem] for problem, _ in batch]
    texts = [prompt_text(one.problem, sampling, generator.tokenizer) for one in problems]
    seeds = [sample_seed(sampling.seed, problem_set.name, *key) for key in batch]
    requests = [Request(text, seed) for text, seed in zip(texts, seeds, strict=True)]
    completions = generator.generate(requests, sampling)
    grades = grade_batch(problems, texts, completions) if judges_math(rewards) else None
    prompts = [prompt_of(one.problem, sampling) for one in problems]
    given = reward_batch(rewards, problems, prompts, completions)
    return [
        Record(
            problem_index=key[0],
            sample_index=key[1],
            seed=requests[row].seed,
            problem=problems[row].problem,
            answers=problems[row].answers,
            prompt=requests[row].prompt,
            completion=completions[row].text,
            num_tokens=completions[row].num_tokens,
            truncated=completions[row].truncated,
            correct=grades[row].correct if grades else None,
            reason=grades[row].reason if grades else None,
            extracted=grades[row].extracted if grades else None,
            rewards=given[row],
        )
        for row, key in enumerate(batch)
    ]


def speed(samples: int, tokens: int, seconds: float) -> str:
    """Samples and tokens a second, as the progress bar shows them."""
    return f"{samples / seconds:.3g} samples/s, {tokens / seconds:.0f} tokens/s"
