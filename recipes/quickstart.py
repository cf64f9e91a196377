"""Token-level credit at work within minutes: a small model fills in blanks, without a download.

    python recipes/quickstart.py --output_dir quickstart
    accelerate launch --num_processes 1 recipes/quickstart.py --output_dir quickstart

A Qwen2 of 0.1 million weights is made in memory and warm-started (SFTTrainer) on texts with ten
blanks, each for the digit that comes next, which the demonstrations get wrong now and then: its
greedy answers are right then, most of its samples wrong somewhere. From that start, with the same
seed and as many steps, TRL's GRPOTrainer and LambdaGRPOTrainer train it on one reward for the whole
text; ours with method="branch": completions are forked from one another, and judged where they
part. OUTPUT_DIR gets

    summary.json    held-out accuracy before and after, generated tokens, seconds (but for imports)
    curves.json     reward, held-out accuracy and generated tokens along both runs
    learning.png    the two as a picture
    credit_report.html  which tokens LambdaGRPOTrainer credited, at the forks that decided
    warm_start/     the model and tokenizer before; in grpo/ after TRL's, in model/ after ours
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from accelerate import PartialState
from quickstart_parts import blanks, settings
from quickstart_parts.learning_curves import Curve
from quickstart_parts.progress_bar import show_progress
from quickstart_parts.results import Run, print_results, print_settings, summarize, write_results
from quickstart_parts.sampled_accuracy import AccuracyCurve, held_out_accuracy
from quickstart_parts.small_model import character_tokenizer, small_qwen2
from quickstart_parts.starting import start_processes
from rich.console import Console
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.report import write_report


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = "new or empty folder for the results"
    parser.add_argument("--output_dir", type=Path, required=True, help=folder)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and sampling (0)")
    overwrite = "replace the files of an earlier quickstart in OUTPUT_DIR; other files stay"
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    parser.add_argument("--learning_rate", type=settings.rate, help="of both (the settings')")
    smoke = "a few steps of everything: shows that it runs here, learns nothing"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser.parse_args(arguments)


def warm_start(
    problems: list[blanks.Problem], tokenizer: PreTrainedTokenizerFast, config: SFTConfig
) -> Path:
    """Trains a fresh model on noisy demonstrations and saves it; returns the folder."""
    rng, noise = random.Random(config.seed), settings.LABEL_NOISE
    torch.manual_seed(config.seed)
    trainer = SFTTrainer(
        small_qwen2(tokenizer, hidden_size=64, layers=2, positions=128),
        config,
        train_dataset=blanks.demonstrations(problems, tokenizer, rng, noise),
        processing_class=tokenizer,
    )
    show_progress(trainer, "1/3 SFT warm start", ("loss",))
    trainer.train()
    trainer.save_model()
    PartialState().wait_for_everyone()
    return Path(config.output_dir)


def train(
    trainer_class: type[GRPOTrainer],
    config: GRPOConfig,
    *,
    start: Path,
    data: blanks.Data,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    part: str,
    budget: settings.Budget,
) -> Run:
    """Trains the model in `start`, measured on the way; saves to the config's output_dir."""
    began = time.perf_counter()
    accuracy = AccuracyCurve(tokenizer, data.held_out, budget.measure_every, budget.completions)
    trainer = trainer_class(
        Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32),
        blanks.all_right,
        config,
        train_dataset=blanks.prompt_rows(data.prompts),
        processing_class=tokenizer,
        callbacks=[accuracy],
    )
    show_progress(trainer, f"{part} {name}", ("reward",))
    trainer.train()
    trainer.save_model()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    curve = Curve(name, rewards, accuracy.points, accuracy.generated, len(data.held_out))
    return Run(curve, config.learning_rate, time.perf_counter() - began)


def main() -> None:
    began = time.perf_counter()
    args = parse_arguments()
    state = start_processes(args.output_dir, overwrite=args.overwrite)
    run(args, state, began)
    # A process that left while its threads still served the others would end in an abort.
    state.wait_for_everyone()
    state.destroy_process_group()


def run(args: argparse.Namespace, state: PartialState, began: float) -> None:
    out, seed = args.output_dir, args.seed
    budget = settings.SMOKE if args.smoke else settings.FULL
    given = settings.grpo_settings(budget, seed)
    rate, grpo_rate = [args.learning_rate] * 2 if args.learning_rate else settings.RATES
    stock_config = GRPOConfig(output_dir=str(out / "grpo"), learning_rate=grpo_rate, **given)
    given |= {"learning_rate": rate} | settings.own_settings(budget)
    our_config = LambdaGRPOConfig(output_dir=str(out / "model"), **given)
    console = Console(quiet=not state.is_main_process)
    changes = settings.changed_settings(our_config, given)
    print_settings(console, changes, grpo_rate)

    data = blanks.Data.draw(budget.held_out, budget.prompts, budget.demonstrations, seed=seed)
    tokenizer = character_tokenizer(blanks.CHARACTERS)
    sft = SFTConfig(str(out / "warm_start"), **settings.warm_start_settings(budget, seed))
    start = warm_start(data.demonstrated, tokenizer, sft)
    same = {"start": start, "data": data, "tokenizer": tokenizer, "budget": budget}
    grpo = train(GRPOTrainer, stock_config, name="TRL's GRPOTrainer", part="2/3", **same)
    ours = train(LambdaGRPOTrainer, our_config, name="LambdaGRPOTrainer", part="3/3", **same)
    if not state.is_main_process:
        return
    model = Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32)
    greedy = held_out_accuracy(model, tokenizer, data.held_out, sample=False, show=False)
    report = write_report(out / "model", out / "credit_report.html")
    more = {"seed": seed, "smoke": args.smoke, "tuned": args.learning_rate is None}
    more |= {"accuracy_before_greedy": greedy, "seconds": time.perf_counter() - began}
    summary = summarize(grpo, ours, changes, budget, **more)
    write_results(out, summary, [grpo.curve, ours.curve])
    print_results(console, summary, out, report[0])


if __name__ == "__main__":
    main()
