"""Token-level credit at work within minutes: a small model learns arithmetic, nothing to download.

    python recipes/quickstart.py --output_dir quickstart
    accelerate launch --num_processes 1 recipes/quickstart.py --output_dir quickstart

A Qwen2 of 0.1 million weights is made in memory and warm-started (SFTTrainer) on differences modulo
10 whose written-out steps are deliberately wrong a quarter of the time: greedily it then answers
well, sampled it is wrong more often than right. From that start, with the same seed and settings,
TRL's GRPOTrainer and LambdaGRPOTrainer train it on verifiable rewards. OUTPUT_DIR gets

    summary.json    held-out accuracy before and after, seconds (imports apart), settings, versions
    curves.json     reward and held-out accuracy along both runs
    learning.png    the two as a picture
    credit_report.html  which tokens LambdaGRPOTrainer credited, and its hidden process rewards
    warm_start/     the model and tokenizer before GRPO
    grpo/           ... after TRL's GRPOTrainer
    model/          ... after LambdaGRPOTrainer
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from quickstart_parts.arithmetic import (
    SOLUTION_TOKENS,
    Problem,
    answer_reward,
    character_tokenizer,
    demonstrations,
    distinct_problems,
    prompt_rows,
    small_qwen2,
)
from quickstart_parts.learning_curves import Curve, plot_curves
from quickstart_parts.progress_bar import show_progress
from quickstart_parts.report import changed_settings, print_results, print_settings, surroundings
from quickstart_parts.sampled_accuracy import AccuracyCurve, held_out_accuracy
from rich.console import Console
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.report import write_report

LABEL_NOISE = 0.25
WRITTEN = (
    "summary.json",
    "curves.json",
    "learning.png",
    "credit_report.html",
    "warm_start",
    "grpo",
    "model",
)


@dataclass(frozen=True)
class Budget:
    """How much is done; both GRPO runs get the same."""

    demonstrations: int
    warm_start_steps: int
    warm_start_batch: int
    prompts: int
    steps: int
    completions: int
    held_out: int
    measure_every: int
    record_every: int


FULL = Budget(
    demonstrations=64_000,
    warm_start_steps=2_000,
    warm_start_batch=32,
    prompts=4_096,
    steps=150,
    completions=64,
    held_out=1_024,
    measure_every=25,
    record_every=5,
)
SMOKE = Budget(
    demonstrations=640,
    warm_start_steps=20,
    warm_start_batch=32,
    prompts=64,
    steps=3,
    completions=64,
    held_out=64,
    measure_every=2,
    record_every=1,
)


@dataclass(frozen=True)
class Data:
    """Problems of three uses, none in two of them."""

    held_out: list[Problem]
    prompts: list[Problem]
    demonstrated: list[Problem]

    @classmethod
    def draw(cls, budget: Budget, seed: int) -> Data:
        stream = distinct_problems(random.Random(seed))
        return cls(
            *(
                list(itertools.islice(stream, count))
                for count in (budget.held_out, budget.prompts, budget.demonstrations)
            )
        )


@dataclass(frozen=True)
class Run:
    """A finished GRPO run."""

    curve: Curve
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.curve.accuracy[-1][1]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="new or empty folder for the results"
    )
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and sampling (0)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of an earlier quickstart in OUTPUT_DIR; other files stay",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few steps of everything: shows that it runs here, learns nothing",
    )
    return parser.parse_args(arguments)


def check_output_dir(folder: Path, overwrite: bool) -> None:
    """Raises SystemExit where earlier results would be lost."""
    if folder.exists() and not folder.is_dir():
        raise SystemExit(f"--output_dir {folder} is a file; give a new or an empty folder.")
    present = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    if present and not overwrite:
        raise SystemExit(
            f"--output_dir {folder} is not empty (it has {', '.join(present[:6])}"
            f"{', …' if len(present) > 6 else ''}), and nothing in it was changed. Give a new or "
            f"an empty folder, or --overwrite to replace {', '.join(WRITTEN)} in it."
        )


def use_one_gpu_without_launcher() -> None:
    """Else the Trainer spreads a single process over all GPUs; call before CUDA is touched."""
    if "LOCAL_RANK" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def per_process(total: int, what: str) -> int:
    """Each process's share of `total`, which does not depend on how many there are."""
    processes = PartialState().num_processes
    if total % processes:
        raise SystemExit(
            f"{total} {what} a step cannot be shared evenly by {processes} processes; launch with "
            f"--num_processes 1, 2, 4 or 8."
        )
    return total // processes


def common_settings(seed: int) -> dict[str, Any]:
    """What all three trainers are told."""
    return {
        "seed": seed,
        "bf16": False,
        # CUDA or CPU: on Apple's MPS this has not been tried, and the CPU is fast enough.
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }


def grpo_settings(budget: Budget, seed: int) -> dict[str, Any]:
    """What both GRPO trainers are told; everything else is each one's own default."""
    return common_settings(seed) | {
        "learning_rate": 5e-4,
        "max_steps": budget.steps,
        "per_device_train_batch_size": per_process(budget.completions, "completions"),
        "max_completion_length": SOLUTION_TOKENS,
        "logging_steps": 1,
    }


def warm_start(data: Data, tokenizer: PreTrainedTokenizerFast, budget: Budget, args) -> Path:
    """Trains on the noisy demonstrations and saves; returns the folder."""
    folder = args.output_dir / "warm_start"
    torch.manual_seed(args.seed)
    trainer = SFTTrainer(
        small_qwen2(tokenizer),
        SFTConfig(
            output_dir=str(folder),
            max_steps=budget.warm_start_steps,
            per_device_train_batch_size=per_process(budget.warm_start_batch, "demonstrations"),
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.2,
            adam_beta2=0.99,
            completion_only_loss=True,
            logging_steps=10,
            **common_settings(args.seed),
        ),
        train_dataset=demonstrations(
            data.demonstrated, tokenizer, random.Random(args.seed), LABEL_NOISE
        ),
        processing_class=tokenizer,
    )
    show_progress(trainer, "1/3 SFT warm start", ("loss",))
    trainer.train()
    trainer.save_model()
    PartialState().wait_for_everyone()
    return folder


def train(
    trainer_class: type[GRPOTrainer],
    config: GRPOConfig,
    *,
    start: Path,
    data: Data,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    part: str,
    every: int,
) -> Run:
    """A GRPO run from the model in `start`, saved to the config's output_dir.

    Args:
        name: of the run, in the picture and, after `part`, at the progress bar.
        every: steps between two measurements of held-out accuracy.
    """
    began = time.perf_counter()
    accuracy = AccuracyCurve(tokenizer, data.held_out, every)
    trainer = trainer_class(
        Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32),
        answer_reward,
        config,
        train_dataset=prompt_rows(data.prompts),
        processing_class=tokenizer,
        callbacks=[accuracy],
    )
    show_progress(trainer, f"{part} {name}", ("reward",))
    trainer.train()
    trainer.save_model()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    curve = Curve(name, rewards, accuracy.points, len(data.held_out))
    return Run(curve, time.perf_counter() - began)


def greedy_accuracy(start: Path, data: Data, tokenizer: PreTrainedTokenizerFast) -> float:
    model = Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32)
    return held_out_accuracy(model, tokenizer, data.held_out, sample=False, show=False)


def write_results(folder: Path, summary: dict[str, Any], curves: list[Curve]) -> None:
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "curves.json").write_text(json.dumps([asdict(c) for c in curves], indent=2) + "\n")
    plot_curves(
        curves,
        folder / "learning.png",
        title="Differences modulo 10 with written-out steps: GRPO after a warm start",
        subtitle=(
            "Qwen2 with 0.1 million weights; both trainers from the same start, with seed "
            f"{summary['seed']} and the same settings.\n"
            f"Points: {curves[0].problems} held-out problems, one sample each, with 95 % intervals."
        ),
    )


def summarize(before_greedy: float, grpo: Run, ours: Run, budget: Budget, args) -> dict[str, Any]:
    """What summary.json has, but for the settings that were changed and the total time."""
    return {
        "accuracy_before": ours.curve.accuracy[0][1],
        "accuracy_after": ours.accuracy,
        "accuracy_after_grpo": grpo.accuracy,
        "accuracy_before_greedy": before_greedy,
        "seconds_grpo": grpo.seconds,
        "seconds_ours": ours.seconds,
        "seed": args.seed,
        "smoke": args.smoke,
        "label_noise": LABEL_NOISE,
        "budget": asdict(budget),
        **surroundings(),
    }


def start_processes(args: argparse.Namespace) -> PartialState:
    """Processes that all know that the output folder may be written to."""
    use_one_gpu_without_launcher()
    # Tensors this small gain nothing from more threads, and lose much where cores are shared.
    torch.set_num_threads(1)
    state = PartialState(cpu=not torch.cuda.is_available())
    check_output_dir(args.output_dir, args.overwrite)
    state.wait_for_everyone()  # nobody writes before everybody has looked
    return state


def main() -> None:
    began = time.perf_counter()
    args = parse_arguments()
    state = start_processes(args)
    run(args, state, began)
    # A process that left while its threads still served the others would end in an abort.
    state.wait_for_everyone()
    state.destroy_process_group()


def run(args: argparse.Namespace, state: PartialState, began: float) -> None:
    budget = SMOKE if args.smoke else FULL
    settings = grpo_settings(budget, args.seed)
    stock_config = GRPOConfig(output_dir=str(args.output_dir / "grpo"), **settings)
    our_config = LambdaGRPOConfig(
        output_dir=str(args.output_dir / "model"), credit_log_steps=budget.record_every, **settings
    )
    console = Console(quiet=not state.is_main_process)
    changed = changed_settings(our_config, [*settings, "credit_log_steps"])
    print_settings(console, changed)

    data, tokenizer = Data.draw(budget, args.seed), character_tokenizer()
    start = warm_start(data, tokenizer, budget, args)
    same = {"start": start, "data": data, "tokenizer": tokenizer, "every": budget.measure_every}
    grpo = train(GRPOTrainer, stock_config, name="TRL's GRPOTrainer", part="2/3", **same)
    ours = train(LambdaGRPOTrainer, our_config, name="LambdaGRPOTrainer", part="3/3", **same)
    if not state.is_main_process:
        return
    summary = summarize(greedy_accuracy(start, data, tokenizer), grpo, ours, budget, args)
    summary["differs_from_defaults"] = {name: value for name, _, value, _ in changed}
    summary["seconds"] = time.perf_counter() - began
    write_results(args.output_dir, summary, [grpo.curve, ours.curve])
    report = write_report(args.output_dir / "model", args.output_dir / "credit_report.html")
    print_results(console, summary, args.output_dir, report[0])


if __name__ == "__main__":
    main()
