"""Evaluation on math benchmarks: sample, grade, resume, compare.

`recipes/evaluate.py` is this on the command line.

    from trl_lambda.evaluation import Sampling, TransformersGenerator, evaluate, load_problem_set

    generator = TransformersGenerator.load("Qwen/Qwen2.5-Math-1.5B")
    evaluate(load_problem_set("math500"), generator, Sampling(), "runs/qwen")

The generators and the training callback load when first used, so that reading records and comparing
them needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trl_lambda.evaluation.benchmarks import BENCHMARKS, Benchmark
from trl_lambda.evaluation.comparison import Comparison, Difference, compare
from trl_lambda.evaluation.generate import Completion, Generator, Request, Sampling
from trl_lambda.evaluation.problem_rows import Problem
from trl_lambda.evaluation.problem_sets import ProblemSet, load_problem_set
from trl_lambda.evaluation.records import Record, read_records
from trl_lambda.evaluation.runner import evaluate, prepare
from trl_lambda.evaluation.summary import averages, summarize
from trl_lambda.templates import TEMPLATES

if TYPE_CHECKING:
    from trl_lambda.evaluation.callback import EvaluationCallback
    from trl_lambda.evaluation.transformers_generator import TransformersGenerator
    from trl_lambda.evaluation.vllm_generator import VLLMGenerator

__all__ = [
    "BENCHMARKS",
    "TEMPLATES",
    "Benchmark",
    "Comparison",
    "Completion",
    "Difference",
    "EvaluationCallback",
    "Generator",
    "Problem",
    "ProblemSet",
    "Record",
    "Request",
    "Sampling",
    "TransformersGenerator",
    "VLLMGenerator",
    "averages",
    "compare",
    "evaluate",
    "load_problem_set",
    "prepare",
    "read_records",
    "summarize",
]

_HOMES = {
    "EvaluationCallback": "callback",
    "TransformersGenerator": "transformers_generator",
    "VLLMGenerator": "vllm_generator",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
