r"""Evaluates a model on math benchmarks, or compares two evaluations.

    python recipes/evaluate.py --model Qwen/Qwen2.5-Math-1.5B --benchmarks math500 aime24 \
        --output_dir runs/qwen
    python recipes/evaluate.py --model Qwen/Qwen2.5-Math-1.5B --adapter runs/grpo/best \
        --benchmarks math500 --k 8 --limit 100 --output_dir runs/grpo_eval
    python recipes/evaluate.py --compare runs/qwen runs/grpo_eval

A benchmark is one of the names below (from the Hugging Face Hub), NAME=FILE (the same from a local
file, with the same checks), or a Parquet or JSON Lines file of your own with the columns `problem`
and `answers`. For each of them OUTPUT_DIR/<name> gets records.jsonl (one line a sample, everything
needed to grade again), summary.json (all numbers with their settings) and settings.json; of several
OUTPUT_DIR/average.json holds the average. The same command again takes up where a killed run left
off. More in trl_lambda/evaluation/README.md.

benchmarks (problems, samples each):
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trl_lambda.atomic_write import replace_json
from trl_lambda.evaluation import (
    BENCHMARKS,
    TEMPLATES,
    Generator,
    ProblemSet,
    Sampling,
    averages,
    compare,
    load_problem_set,
    prepare,
)
from trl_lambda.evaluation.comparison import left_out
from trl_lambda.evaluation.problem_sets import check_names, is_benchmark
from trl_lambda.evaluation.runner import PreparedRun, resolve
from trl_lambda.evaluation.scoring import MATH, Rewards, check_rewards, judges_math
from trl_lambda.evaluation.tables import (
    average_comparison_tables,
    comparison_table,
    overall_tables,
    print_tables,
    require_rich,
    summary_table,
)
from trl_lambda.evaluation.trained_with import differences_from_training, training_settings
from trl_lambda.scripts.named_functions import SHORT_NAMES, find_functions


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line asks for."""
    options = parse_arguments(arguments)
    try:
        if options.compare:
            print_comparison(*options.compare)
        else:
            print_evaluation(options)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        if options.traceback:
            raise
        sys.exit(f"{type(error).__name__}: {error}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=str(__doc__) + _benchmark_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser)
    _add_sampling(parser)
    _add_prompt(parser)
    _add_how(parser)
    options = parser.parse_args(arguments)
    missing = [name for name in ("model", "benchmarks", "output_dir") if not vars(options)[name]]
    if missing and not options.compare:
        parser.error(f"expected --{', --'.join(missing)}, or --compare A B")
    own_columns = options.prompt_column or options.answer_column
    if own_columns and all(map(is_benchmark, options.benchmarks or [])):
        parser.error("--prompt_column and --answer_column are for files of your own; none is named")
    return options


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or Hub id of the model")
    parser.add_argument("--adapter", help="folder or Hub id of a PEFT adapter for the model")
    parser.add_argument(
        "--benchmarks", nargs="+", metavar="BENCHMARK", help="names, NAME=FILE or files"
    )
    parser.add_argument("--output_dir", help="folder for the results")
    parser.add_argument("--k", type=int, help="samples a problem (default: the benchmark's)")
    parser.add_argument(
        "--limit", type=int, help="evaluate on the first LIMIT problems only (default: all)"
    )
    parser.add_argument(
        "--reward_funcs",
        nargs="+",
        metavar="REWARD",
        help=f"what scores a sample, as in training: {', '.join(SHORT_NAMES)}, or dotted paths "
        "(package.module.function); math gives avg@k, pass@k and maj@k, another function the mean "
        "of what it returns (default: math)",
    )
    parser.add_argument(
        "--prompt_column", help="the column with the problems in your own files (default: problem)"
    )
    parser.add_argument(
        "--answer_column", help="the column with the golds in your own files (default: answers)"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    defaults = Sampling()
    parser.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        help="0 is greedy and needs --k 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--top_p",
        type=float,
        default=defaults.top_p,
        help="nucleus sampling (default: %(default)s)",
    )
    parser.add_argument(
        "--max_tokens",
        type=int,
        default=defaults.max_tokens,
        help="longest completion; prompt and completion must fit the model (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--template",
        help=f"prompt: {', '.join(TEMPLATES)} (none is the problem alone, chat the model's own "
        "chat template), or a text of your own in which {prompt} stands for the problem "
        "(default: the benchmark's, qwen_math)",
    )
    parser.add_argument(
        "--conversational",
        action="store_true",
        help="make the prompt a user's message, put through the chat template",
    )
    parser.add_argument(
        "--system_prompt",
        help="a system message before it; needs --conversational or --template chat",
    )
    parser.add_argument(
        "--chat_template_kwargs",
        type=_json_object,
        metavar="JSON",
        help="further arguments of the chat template, such as '{\"enable_thinking\": false}'",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("auto", "vllm", "transformers"),
        default="auto",
        help="auto is vLLM where it is installed, else Transformers",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        help="completions sampled and saved at a time (default: as many as suit the model, the "
        "memory and the cores; with vLLM 1024)",
    )
    parser.add_argument(
        "--dtype", default="auto", help="such as bfloat16 (default: the one of the saved model)"
    )
    parser.add_argument(
        "--no_resume", action="store_true", help="delete the records in OUTPUT_DIR and begin anew"
    )
    parser.add_argument(
        "--accept_sha256",
        nargs="+",
        default=[],
        metavar="HASH",
        help="accept a benchmark whose content has this hash, which the error names",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="print the paired differences, B less A, of two output folders; nothing is generated",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a JSON object")
    return found


def print_evaluation(options: argparse.Namespace) -> None:
    """Evaluates on each benchmark in turn and prints its table, and at the end one of all."""
    runs = prepare_all(options)
    say_what_differs(options.adapter or options.model, [run.sampling for run in runs])
    summaries = []
    for run in runs:
        summaries.append(run.run())
        print_tables([summary_table(summaries[-1])])
    if len(summaries) > 1:
        samples = {run.problem_set.name: run.k for run in runs}
        average = {"samples": samples, "averages": averages(summaries)}
        replace_json(Path(options.output_dir) / "average.json", average)
        print_tables(overall_tables(summaries))


def prepare_all(options: argparse.Namespace) -> list[PreparedRun]:
    """Finds all that can be wrong with any of the benchmarks, so that it is not found hours later.

    What needs no model is checked before the model is loaded.
    """
    require_rich()
    rewards = named_rewards(options.reward_funcs)
    problem_sets = load_problem_sets(options, rewards)
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        template=options.template,
        conversational=options.conversational,
        system_prompt=options.system_prompt,
        chat_template_kwargs=options.chat_template_kwargs,
        seed=options.seed,
    )
    for one in problem_sets:
        resolve(sampling, one, one.default_k if options.k is None else options.k)
        check_rewards(rewards, one.problems, one.source)
    generator = load_generator(options)
    how = {"k": options.k, "rewards": rewards, "resume": not options.no_resume}
    return [prepare(one, generator, sampling, options.output_dir, **how) for one in problem_sets]


def named_rewards(names: list[str] | None) -> Rewards:
    """The reward functions by the names they were asked for with."""
    if not names:
        return MATH
    if len(set(names)) < len(names):
        raise ValueError(f"--reward_funcs {' '.join(names)}: expected each of them once.")
    functions = find_functions(names, "--reward_funcs", short_names=SHORT_NAMES)
    return dict(zip(names, functions, strict=True))


def load_problem_sets(options: argparse.Namespace, rewards: Rewards) -> list[ProblemSet]:
    """The problem sets that are asked for, each with a folder of its own."""
    loaded = [
        load_problem_set(
            spec,
            accept_sha256=options.accept_sha256,
            prompt_column=options.prompt_column or "problem",
            answer_column=options.answer_column,
            need_answers=judges_math(rewards),
        )
        for spec in options.benchmarks
    ]
    check_names(loaded)
    return [one.limit(options.limit) for one in loaded]


def say_what_differs(folder: str, used: list[Sampling]) -> None:
    """Says what the training of a run's model did otherwise, where its folder tells."""
    trained_with = training_settings(folder)
    said = [line for one in used for line in differences_from_training(trained_with, one)]
    if said:
        print(f"{folder} was trained otherwise than it is evaluated:")
    for line in dict.fromkeys(said):
        print(f"  {line}")


def load_generator(options: argparse.Namespace) -> Generator:
    """Loads the model with the engine that is asked for."""
    engine = options.engine
    if engine == "auto":
        engine = "transformers" if find_spec("vllm") is None else "vllm"
    sizes: dict[str, Any] = {}
    if options.batch_size is not None:
        sizes = {"batch_size": options.batch_size}
    if engine == "vllm":
        from trl_lambda.evaluation import VLLMGenerator

        return VLLMGenerator(options.model, adapter=options.adapter, dtype=options.dtype, **sizes)
    from trl_lambda.evaluation import TransformersGenerator

    return TransformersGenerator.load(
        options.model, adapter=options.adapter, dtype=options.dtype, **sizes
    )


def print_comparison(folder_a: str, folder_b: str) -> None:
    """Prints a table for each benchmark that both folders have, and the averages over them."""
    compared = compare(folder_a, folder_b)
    print_tables([comparison_table(one) for one in compared])
    print_tables(average_comparison_tables(compared))
    if alone := left_out(folder_a, folder_b):
        print(f"only in one of the folders: {', '.join(alone)}")


def _benchmark_list() -> str:
    return "\n".join(
        f"  {row.name:14} {row.num_problems:5} {row.default_k:3}  {row.hub_id}, {row.split}"
        for row in BENCHMARKS.values()
    )


if __name__ == "__main__":
    main()
