"""The start that all arms share: supervised fine-tuning until some samples are right, kept on disk.

The rule was fixed before any arm was run: training on written-out solutions is measured every few
steps on problems that nothing else uses, and stops at the first measurement with at least 25 % of
the samples right. Below 20 % groups are mostly all wrong, above 50 % there is little left to learn.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..learning.warm_start import fingerprint
from ..quiet import QUIET
from .problems import Problem, part
from .questions import reference_steps
from .sampling import measure
from .tasks import as_rows, chat

RECORD = "warm_start.json"


@dataclass(frozen=True)
class WarmStart:
    """How the start is made.

    Attributes:
        enough: share of right samples at which it stops.
        every: steps between two measurements.
        checked, samples: problems of a measurement, and samples of each; none of these problems
            is trained on. With 48 samples the rule stopped early by luck: 27 % of them were right,
            and of other problems' samples 13 %.
        steps: at most so many.
    """

    enough: float = 0.25
    every: int = 10
    checked: int = 96
    samples: int = 2
    steps: int = 200
    batch: int = 8
    learning_rate: float = 2e-4
    tokens: int = 80
    seed: int = 0


@dataclass(frozen=True)
class AnswersAtOnce(WarmStart):
    """A start that also learns to be asked: some demonstrations break off and answer at once.

    Attributes:
        one_in: so many demonstrations; after none, one, two … of its steps in turn.
    """

    one_in: int = 5


# By the word of `--demonstrations`.
STARTS = {"solutions": WarmStart(), "answers_at_once": AnswersAtOnce()}


def demonstrations(problems: list[Problem], how: WarmStart) -> Dataset:
    every = how.one_in if isinstance(how, AnswersAtOnce) else 0
    return Dataset.from_list(
        [
            {
                "prompt": chat(p.question),
                "completion": [
                    {
                        "role": "assistant",
                        "content": at_once(p.solution, index // every)
                        if every and index % every == 0
                        else p.solution,
                    }
                ],
            }
            for index, p in enumerate(problems)
        ]
    )


def at_once(solution: str, turn: int) -> str:
    """The answer line of a solution after fewer of its steps than there are."""
    *steps, answer_line = reference_steps(solution, "sentences")
    return "".join([*steps[: turn % len(steps)], answer_line])


class UntilEnough(TrainerCallback):
    """Measures on the way, and ends the training when enough samples are right.

    Attributes:
        shares: (step, share of right samples) so far.
    """

    def __init__(self, how: WarmStart, rows: list[dict], tokenizer):
        self.how, self.rows, self.tokenizer = how, rows, tokenizer
        self.shares: list[tuple[int, float]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.how.every:
            return
        how = self.how
        measured = measure(
            model, self.tokenizer, self.rows, k=how.samples, tokens=how.tokens, batch=len(self.rows)
        )
        self.shares.append((state.global_step, measured.accuracy))
        print(f"warm start, step {state.global_step}: {measured.accuracy:.3f} right", flush=True)
        control.should_training_stop = measured.accuracy >= self.how.enough


def warm_start_of(origin: str, output_dir: Path, how: WarmStart) -> tuple[Path, str]:
    """The folder of the warm start of a model, and what records say that it was made with.

    The versions of packages are not in its name: a start that is there is not made again, and the
    keys of runs have them.

    Args:
        origin: how records name the model, see `model.known_as`.
    """
    made = f"{origin}, {fingerprint(vars(how))}"
    return output_dir / f"warm_start-{fingerprint({'made': made})}", made


def warm_start(model: Path, folder: Path, how: WarmStart = WarmStart()) -> Path:
    """The folder of the warm-started model; trained where it is not there.

    Raises:
        SystemExit: after `how.steps` steps too few samples are right.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        shares = train(model, made, how, Path(temporary) / "trainer")
        if not shares or shares[-1][1] < how.enough:
            raise SystemExit(
                f"The warm start of {model} ended after {how.steps} steps with the shares of right "
                f"samples {shares}; {how.enough:g} was asked for."
            )
        (made / RECORD).write_text(json.dumps(asdict(how) | {"shares": shares}) + "\n")
        if not folder.exists():
            os.rename(made, folder)
    return folder


def train(
    model: Path, folder: Path, how: WarmStart, trainer_folder: Path
) -> list[tuple[int, float]]:
    """Saves the trained model in `folder`; returns what was measured on the way."""
    problems = part("warm_start")
    tokenizer = AutoTokenizer.from_pretrained(model)
    callback = UntilEnough(how, as_rows(problems[: how.checked]), tokenizer)
    config = SFTConfig(
        output_dir=str(trainer_folder),
        max_steps=how.steps,
        per_device_train_batch_size=how.batch,
        learning_rate=how.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        seed=how.seed,
        max_length=None,
        logging_strategy="no",
        **QUIET,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        config,
        train_dataset=demonstrations(problems[how.checked :], how),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return callback.shares
