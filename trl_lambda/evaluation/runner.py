"""Runs an evaluation: samples, grades, writes, and takes up where a killed run left off.

    >>> problems = load_problem_set("math500")
    >>> generator = TransformersGenerator.load("Qwen/Qwen2.5-Math-1.5B")
    >>> summary = evaluate(problems, generator, Sampling(), "runs/qwen")

The folder then holds `math500/settings.json`, `records.jsonl` (one line a sample) and
`summary.json`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from trl_lambda.atomic_write import replace_json
from trl_lambda.evaluation.generate import Generator, Request, Sampling, sample_seed
from trl_lambda.evaluation.problem_sets import ProblemSet
from trl_lambda.evaluation.records import Record, RecordFile
from trl_lambda.evaluation.summary import summarize
from trl_lambda.rewards import grade_many
from trl_lambda.templates import render, response_text

Key = tuple[int, int]  # problem and sample
Change = tuple[str, Any, Any]  # a setting's name, its old and its new value


def evaluate(
    problem_set: ProblemSet,
    generator: Generator,
    sampling: Sampling,
    output_dir: str | Path,
    *,
    k: int | None = None,
    resume: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluates a model on a problem set.

    Args:
        problem_set: From `load_problem_set`.
        generator: What samples the completions.
        sampling: How it samples.
        output_dir: Folder for the results; they go into `output_dir/<name of the set>`.
        k: Samples a problem; `None` for the set's own.
        resume: Take up records that are there. `False` begins anew and deletes them.
        progress: Whether to show a progress bar.

    Returns:
        What `summary.json` holds, see `summarize`.

    Raises:
        ValueError: The folder holds records of other settings, temperature is 0 with k > 1, or a
            prompt is too long for the model.
    """
    k = problem_set.default_k if k is None else k
    sampling = resolve(sampling, problem_set, k)
    prompts = [
        render(one.problem, str(sampling.template), generator.tokenizer)
        for one in problem_set.problems
    ]
    generator.check(prompts, sampling)
    folder = Path(output_dir) / problem_set.name
    folder.mkdir(parents=True, exist_ok=True)
    settings = describe(problem_set, generator, sampling, k)
    if not resume:
        (folder / "records.jsonl").unlink(missing_ok=True)
        (folder / "settings.json").unlink(missing_ok=True)
    with RecordFile(folder / "records.jsonl") as file:
        _check_settings(folder / "settings.json", settings, fresh=not file.records)
        batches = plan(len(problem_set.problems), k, generator.batch_size)
        with tqdm(
            total=sum(map(len, batches)), desc=problem_set.name, unit="sample", disable=not progress
        ) as bar:
            for batch in batches:
                # A batch that a kill cut in two is sampled as a whole, to have the same numbers.
                if any(key not in file.records for key in batch):
                    file.append(run_batch(batch, problem_set, generator, sampling))
                bar.update(len(batch))
        summary = summarize(list(file.records.values()), settings)
    replace_json(folder / "summary.json", summary)
    return summary


def resolve(sampling: Sampling, problem_set: ProblemSet, k: int) -> Sampling:
    """The sampling with the set's template where none is asked for.

    Raises:
        ValueError: k < 1, or temperature 0 with k > 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1 sample a problem.")
    if sampling.temperature == 0 and k > 1:
        raise ValueError(
            f"{problem_set.name}: temperature is 0 and k is {k}, but all samples of a "
            "problem would be equal. Expected k = 1, or a temperature above 0."
        )
    return replace(sampling, template=sampling.template or problem_set.template)


def describe(
    problem_set: ProblemSet, generator: Generator, sampling: Sampling, k: int
) -> dict[str, Any]:
    """Everything that changes the records, as JSON."""
    described = {
        "benchmark": problem_set.name,
        "source": problem_set.source,
        "sha256": problem_set.sha256,
        "num_problems": len(problem_set.problems),
        "n": k,
        **asdict(sampling),
        "generator": dict(generator.settings),
    }
    return json.loads(json.dumps(described))


def plan(num_problems: int, k: int, batch_size: int) -> list[tuple[Key, ...]]:
    """All samples in batches that do not depend on what is done already."""
    keys = [(problem, sample) for problem in range(num_problems) for sample in range(k)]
    return [tuple(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)]


def run_batch(
    batch: Sequence[Key], problem_set: ProblemSet, generator: Generator, sampling: Sampling
) -> list[Record]:
    """Samples and grades a batch."""
    problems = [problem_set.problems[problem] for problem, _ in batch]
    prompts = [render(one.problem, str(sampling.template), generator.tokenizer) for one in problems]
    seeds = [sample_seed(sampling.seed, problem_set.name, *key) for key in batch]
    requests = [Request(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    completions = generator.generate(requests, sampling)
    grades = grade_many(
        [response_text(p, c.text) for p, c in zip(prompts, completions, strict=True)],
        [one.answers for one in problems],
    )
    return [
        Record(
            problem_index=problem_index,
            sample_index=sample_index,
            seed=request.seed,
            problem=problem.problem,
            answers=problem.answers,
            prompt=request.prompt,
            completion=completion.text,
            num_tokens=completion.num_tokens,
            truncated=completion.truncated,
            correct=grade.correct,
            reason=grade.reason,
            extracted=grade.extracted,
        )
        for (problem_index, sample_index), problem, request, completion, grade in zip(
            batch, problems, requests, completions, grades, strict=True
        )
    ]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """The settings that differ, those inside of others as `outer.inner`."""
    found: list[Change] = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append((f"{prefix}{name}", before, now))
    return found


def _check_settings(path: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Writes the settings of a run that begins; compares those of one that goes on."""
    if fresh:
        replace_json(path, settings)
        return
    if not path.exists():
        raise ValueError(f"{path} is missing beside records.jsonl; begin anew in another folder.")
    if changed := differences(json.loads(path.read_text("utf-8")), settings):
        named = "; ".join(f"{name}: {before!r}, now {now!r}" for name, before, now in changed)
        raise ValueError(
            f"{path.parent} holds records of other settings: {named}. Give the old "
            "settings, another output_dir, or resume=False (--no_resume) to delete the records."
        )
