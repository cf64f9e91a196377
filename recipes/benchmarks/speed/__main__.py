"""How fast the credit is: ratios measured in one run, on this machine.

    python recipes/benchmarks/speed              # everything, about twelve minutes on two cores
    python recipes/benchmarks/speed --parts traces process_sets
    python recipes/benchmarks/speed --parts step --hidden_size 512 --layers 8 --length 1024
    python recipes/benchmarks/speed --parts step --shape qwen2.5-1.5b   # a GPU of 80 GB

Six parts: traces against the dense T×T product, process sets against a Python prefix tree and the
comparison of all pairs, a training step with everything on against stock GRPO, with stock against
stock beside it as control, the same with an answer probe in its three ways, time and
memory of the credit against the sizes of a batch, with a large run on paper, and branched rollouts
against independent ones, with Transformers and, where it is installed, vLLM. Absolute times depend
on the machine; quote the ratios. The training step runs on a CUDA device where torch sees one, and
is timed there by the device's events; the rest runs on the CPU.

--shape qwen2.5-1.5b is the training step at that model's sizes: random weights in bfloat16, 8
groups of 8 completions of 2048 tokens, in micro-batches of 4 with gradient checkpointing. Single
sizes can be changed beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from benchmarks.quiet import silence
from benchmarks.speed import kernels, rollout, scaling
from benchmarks.speed.measuring import on_cuda
from benchmarks.speed.probe import LENGTHS, probed_steps
from benchmarks.speed.shapes import SHAPES, Shape, cpu_refusal
from benchmarks.speed.step import training_step
from benchmarks.speed.tables import show
from rich.console import Console

from trl_lambda.atomic_write import replace_json
from trl_lambda.versions import installed_versions

PARTS = ("traces", "process_sets", "step", "probe", "scale", "rollout")
WITH_MODEL = ("step", "probe")  # these train a model of the shape
SIZES = {
    "hidden_size": "of the model",
    "layers": "of the model",
    "heads": "of attention",
    "kv_heads": "of keys and values",
    "mlp": "inner size of the MLP",
    "vocabulary": "tokens of the model, at least 1000",
    "groups": "of 8 completions",
    "length": "tokens a completion",
    "micro_batch": "completions a pass",
}


def parse_arguments() -> tuple[argparse.Namespace, Shape]:
    parser = argparse.ArgumentParser(
        prog="python recipes/benchmarks/speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of a kernel (20)")
    parser.add_argument("--rounds", type=int, help="pairs of training steps (the shape's)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1: less noise)")
    parser.add_argument(
        "--json", type=Path, help="also write the numbers to this file, beside other parts in it"
    )
    step = parser.add_argument_group("sizes of the training step")
    step.add_argument("--shape", choices=SHAPES, default="small", help="(%(default)s)")
    for name, what in SIZES.items():
        step.add_argument(f"--{name}", type=int, help=f"{what} (the shape's)")
    step.add_argument(
        "--allow_cpu", action="store_true", help="go on where a step takes hours on this CPU"
    )
    step.add_argument(
        "--probe_lengths", type=int, nargs="+", default=LENGTHS, help="tokens, of --parts probe"
    )
    options = parser.parse_args()
    try:
        return options, chosen_shape(options)
    except ValueError as error:
        parser.error(str(error))


def chosen_shape(options: argparse.Namespace) -> Shape:
    """The named shape with the sizes that were asked for beside it.

    Raises:
        ValueError: sizes that cannot be, or that this machine should not be asked for.
    """
    shape = SHAPES[options.shape].changed(**{name: getattr(options, name) for name in SIZES})
    shape.check()
    if "probe" in options.parts and options.shape != "small":
        raise ValueError(
            f"--shape {options.shape} is for --parts step alone; --parts probe cuts a batch of "
            "--hidden_size, --layers, … into two micro-batches. Name the parts without it."
        )
    asked = set(options.parts) & set(WITH_MODEL)
    refusal = cpu_refusal(shape) if asked and not on_cuda() and not options.allow_cpu else None
    if refusal:
        raise ValueError(f"--shape {options.shape}: {refusal}")
    return shape


def main() -> None:
    options, shape = parse_arguments()
    silence()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = options.rounds or shape.rounds
    parts = {
        "traces": lambda: kernels.traces(options.repeats),
        "process_sets": lambda: kernels.process_sets(options.repeats),
        "step": lambda: training_step(rounds, shape),
        "probe": lambda: probed_steps(min(rounds, 15), shape, options.probe_lengths),
        "scale": lambda: scaling.rows(min(options.repeats, 5)),
        "rollout": lambda: rollout.rows(shape.groups, min(options.repeats, 5)),
    }
    results = {}
    for part in options.parts:
        name = result_name(part, options.shape, shape)
        results[name] = parts[part]()
        show(Console(), name, results[name])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        replace_json(options.json, beside_others(options.json, results, shape))


def result_name(part: str, named: str, shape: Shape) -> str:
    """What a part's rows are called: a step of a named shape is not the small one's."""
    if part != "step" or named == "small":
        return part
    return f"{part} {named}" if shape == SHAPES[named] else f"{part} {named} changed"


def beside_others(path: Path, results: dict[str, list[dict]], shape: Shape) -> dict:
    """All parts that a file has, with these in their place; each names what it was measured with.

    Raises:
        ValueError: a file that is none of ours.
    """
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if not isinstance(earlier, dict):
        raise ValueError(f"--json {path}: expected an object with the parts, or no such file.")
    with_these = installed_versions() | {"device": device_name()}
    with_model = with_these | {"shape": dataclasses.asdict(shape) | {"dtype": str(shape.dtype)}}
    return (
        earlier
        | results
        | {
            f"{name}_versions": with_model if name.split()[0] in WITH_MODEL else with_these
            for name in results
        }
    )


def device_name() -> str:
    """Where training steps run."""
    return torch.cuda.get_device_name() if on_cuda() else "cpu"


if __name__ == "__main__":
    main()
