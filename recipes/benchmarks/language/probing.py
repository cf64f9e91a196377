"""What the answer probe knows on a real language model: samples, and what they are asked.

Completions of held-out problems are sampled as in training, cut into steps, and before each step
the model is asked all of `questions.QUESTIONS` under its own weights. An answer is a mean
log-probability, as in `trl_lambda.probe`. What is kept is one line for each few problems, so that a
killed measurement goes on where it was.

B completions, T completion positions, P prompt positions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_lambda.functional.segments import segment_counts, segment_starts
from trl_lambda.probe.asking import gold_of
from trl_lambda.probe.step_ends import StepEnds
from trl_lambda.rewards import grade_many
from trl_lambda.scored_batch import SampledBatch
from trl_lambda.seam.continuations import ContinuationScorer
from trl_lambda.versions import TRAINING, installed_versions

from ..learning.runs import append_line, read_lines
from ..learning.warm_start import fingerprint
from .questions import Questions, reference_steps
from .sampling import sample
from .sentences import sentence_ends
from .tasks import Task, first

SEED = 0
PART = "held_out"
STEP_ENDS = {"sentences": sentence_ends, "newline": "newline"}


@dataclass(frozen=True)
class Asking:
    """How much is sampled and asked.

    Attributes:
        problems, samples: held-out problems, and samples of each.
        problems_at_once: sampled together, and kept together.
        rows_at_once: completions that are scored in a forward pass.
    """

    problems: int = 48
    samples: int = 4
    problems_at_once: int = 8
    rows_at_once: int = 8


def ask_all(model: str, task: Task, how: Asking, folder: Path) -> list[dict[str, Any]]:
    """A record for each completion: see `ask`.

    Args:
        model: folder or name.
        folder: where finished parts are kept, and taken up again.
    """
    path = folder / f"asked-{fingerprint(_settings(model, task, how))}.jsonl"
    done = {line["part"]: line["rows"] for line in read_lines(path)}
    rows, solutions = first(task, PART, how.problems), task.solutions(PART)
    starts = range(0, len(rows), how.problems_at_once)
    if set(starts) - done.keys():
        policy, tokenizer = loaded(model)
        for start in tqdm(starts, desc="asked", unit="part"):
            if start in done:
                continue
            chosen = slice(start, min(start + how.problems_at_once, len(rows)))
            done[start] = ask(policy, tokenizer, task, rows, solutions, chosen, how)
            append_line(path, {"part": start, "rows": done[start]})
    return [row for start in starts for row in done[start]]


def _settings(model: str, task: Task, how: Asking) -> dict[str, Any]:
    """All that decides what is found, the model's own files included."""
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    asked = [task.tokens, task.steps, first(task, PART, how.problems)]
    if task.given:  # others are known by the problems
        asked.append(task.solutions(PART)[: how.problems])
    weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "model": model,
        "weights": weights,
        "task": asked,
        "how": asdict(how),
        "versions": installed_versions(*TRAINING),
    }


def loaded(model: str) -> tuple[Any, Any]:
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        policy.cuda()
    return policy, AutoTokenizer.from_pretrained(model)


def ask(
    policy,
    tokenizer,
    task: Task,
    rows: list[dict],
    solutions: list[str],
    chosen: slice,
    how: Asking,
) -> list[dict[str, Any]]:
    """Samples and asks a few problems.

    Returns:
        For each completion `group` (number of the problem), `right`, `tokens`, `entropy` (summed
        over its tokens), `text`, and `values`: for each question a mean log-probability before each
        step, None where it was not asked.
    """
    numbers = [n for n in range(chosen.start, chosen.stop) for _ in range(how.samples)]
    prompts = [rows[n]["prompt"] for n in numbers]
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(SEED + chosen.start)
        drawn = sample(policy, tokenizer, prompts, task.tokens)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in drawn]
    grades = grade_many(texts, [rows[n]["answers"] for n in numbers])
    asked = [
        (reference_steps(solutions[n], task.steps), gold_of(rows[n]["answers"], "answers"))
        for n in numbers
    ]
    values = answers(policy, tokenizer, task.steps, prompts, [ids for ids, _ in drawn], asked, how)
    return [
        {
            "group": n,
            "right": bool(grade.correct),
            "tokens": len(ids),
            "entropy": round(sum(entropy), 4),
            "text": text,
            "values": own,
        }
        for n, grade, (ids, entropy), text, own in zip(
            numbers, grades, drawn, texts, values, strict=True
        )
    ]


def answers(
    policy,
    tokenizer,
    steps: str,
    prompts: list,
    completions: list[list[int]],
    asked: list[tuple[list[str], str]],
    how: Asking,
) -> list[dict[str, list[float | None]]]:
    """For each completion and question a mean log-probability before each of its steps.

    Args:
        steps: how completions are cut, `sentences` or `newline`.
        asked: steps of the reference, and gold, of each completion.
    """
    batch = as_batch(tokenizer, prompts, completions, policy.device)
    ends = StepEnds(STEP_ENDS[steps], tokenizer.decode)
    number_BT = ends.numbers(batch.completion_ids_BT, batch.mask_BT)
    starts, counts = segment_starts(number_BT).tolist(), segment_counts(number_BT).tolist()
    questions = Questions(tokenizer)
    where, chunks = [], []
    for row, (reference, gold) in enumerate(asked):
        for k in range(counts[row]):
            for chunk in questions.after(reference, gold, k):
                where.append((row, k, starts[row][k]))
                chunks.append(chunk)
    scorer = ContinuationScorer(lambda: policy, log_probs_of(policy))
    wanted = [(row, start, c.ids) for (row, _, start), c in zip(where, chunks, strict=True)]
    scored = scorer.log_probs(batch, wanted, rows_per_pass=how.rows_at_once)
    values: list[dict[str, list[float | None]]] = [{} for _ in asked]
    for (row, k, _), chunk, log_probs in zip(where, chunks, scored, strict=True):
        for question, indices in chunk.parts.items():
            line = values[row].setdefault(question, [None] * counts[row])
            line[k] = round(log_probs[indices].mean().item(), 6)
    return values


def log_probs_of(policy):
    """What scores the last positions of a batch, as TRL's own function does."""

    def score(ids_CL: Tensor, mask_CL: Tensor, positions: int) -> Tensor:
        logits = policy(
            input_ids=ids_CL, attention_mask=mask_CL, logits_to_keep=positions + 1
        ).logits[:, :-1]
        chosen = logits.gather(-1, ids_CL[:, -positions:, None])[..., 0]
        return chosen.float() - logits.float().logsumexp(-1)

    return score


def as_batch(tokenizer, prompts: list, completions: list[list[int]], device) -> SampledBatch:
    """Prompts and completions as the trainer has them."""
    prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    prompt_ids_BP = _padded([row[::-1] for row in prompt_ids]).flip(1).to(device)
    ids_BT = _padded(completions).to(device)
    return SampledBatch(
        completion_ids_BT=ids_BT,
        prompt_ids_BP=prompt_ids_BP,
        lengths_B=(ids_BT >= 0).sum(1),
        mask_BT=ids_BT >= 0,
        has_images=False,
        columns={},
    )


def _padded(rows: list[list[int]]) -> Tensor:
    """Padded with −1 behind."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-1)
