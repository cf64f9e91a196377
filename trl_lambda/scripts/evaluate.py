r"""Evaluates a model on math benchmarks, or compares two evaluations.

    python recipes/evaluate.py --model Qwen/Qwen2.5-Math-1.5B --benchmarks math500 aime24 \
        --output_dir runs/qwen
    python recipes/evaluate.py --model Qwen/Qwen2.5-Math-1.5B --adapter runs/grpo/best \
        --benchmarks math500 --k 8 --limit 100 --output_dir runs/grpo_eval
    python recipes/evaluate.py --compare runs/qwen runs/grpo_eval

A benchmark is one of the names below (from the Hugging Face Hub), NAME=FILE (the same from a local
file, with the same checks), or a Parquet or JSON Lines file of your own with the columns `problem`
and `answers`. For each of them OUTPUT_DIR/<name> gets records.jsonl (one line a sample, everything
needed to grade again), summary.json (all numbers with their settings) and settings.json. The same
command again takes up where a killed run left off.

benchmarks (problems, samples each):
"""

import argparse
import sys
from importlib.util import find_spec
from typing import Any

from trl_lambda.evaluation import (
    BENCHMARKS,
    TEMPLATES,
    Generator,
    Sampling,
    compare,
    evaluate,
    load_problem_set,
)
from trl_lambda.evaluation.comparison import left_out
from trl_lambda.evaluation.tables import comparison_table, print_tables, summary_table


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
    defaults = Sampling()
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
    parser.add_argument(
        "--template",
        choices=TEMPLATES,
        help="prompt: qwen_math, r1, none (the problem alone) or the model's own chat template "
        "(default: the benchmark's, qwen_math)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    parser.add_argument(
        "--engine",
        choices=("auto", "vllm", "transformers"),
        default="auto",
        help="auto is vLLM where it is installed, else Transformers",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        help="completions sampled and saved at a time (default: 16, with vLLM 1024)",
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
    options = parser.parse_args(arguments)
    missing = [name for name in ("model", "benchmarks", "output_dir") if not vars(options)[name]]
    if missing and not options.compare:
        parser.error(f"expected --{', --'.join(missing)}, or --compare A B")
    return options


def print_evaluation(options: argparse.Namespace) -> None:
    """Evaluates on each benchmark in turn and prints its table."""
    # All sets first: a wrong name should not be found out after hours.
    problem_sets = [
        load_problem_set(spec, accept_sha256=options.accept_sha256).limit(options.limit)
        for spec in options.benchmarks
    ]
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        template=options.template,
        seed=options.seed,
    )
    generator = load_generator(options)
    for problem_set in problem_sets:
        summary = evaluate(
            problem_set,
            generator,
            sampling,
            options.output_dir,
            k=options.k,
            resume=not options.no_resume,
        )
        print_tables([summary_table(summary)])


def load_generator(options: argparse.Namespace) -> Generator:
    """Loads the model with the engine that is asked for."""
    engine = options.engine
    if engine == "auto":
        engine = "transformers" if find_spec("vllm") is None else "vllm"
    sizes: dict[str, Any] = {"batch_size": options.batch_size} if options.batch_size else {}
    if engine == "vllm":
        from trl_lambda.evaluation import VLLMGenerator

        return VLLMGenerator(options.model, adapter=options.adapter, dtype=options.dtype, **sizes)
    from trl_lambda.evaluation import TransformersGenerator

    return TransformersGenerator.load(
        options.model, adapter=options.adapter, dtype=options.dtype, **sizes
    )


def print_comparison(folder_a: str, folder_b: str) -> None:
    """Prints a table for each benchmark that both folders have."""
    print_tables([comparison_table(one) for one in compare(folder_a, folder_b)])
    if alone := left_out(folder_a, folder_b):
        print(f"only in one of the folders: {', '.join(alone)}")


def _benchmark_list() -> str:
    return "\n".join(
        f"  {row.name:14} {row.num_problems:5} {row.default_k:3}  {row.hub_id}, {row.split}"
        for row in BENCHMARKS.values()
    )


if __name__ == "__main__":
    main()
