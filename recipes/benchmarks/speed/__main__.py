"""How fast the credit is: ratios measured in one run, on this machine.

    python recipes/benchmarks/speed              # everything, about twelve minutes on two cores
    python recipes/benchmarks/speed --parts traces process_sets
    python recipes/benchmarks/speed --parts step --hidden_size 1536 --layers 28 --length 2048

Six parts: traces against the dense T×T product, process sets against a Python prefix tree and the
comparison of all pairs, a training step with everything on against stock GRPO, with stock against
stock beside it as control, the same with an answer probe in its three ways, time and
memory of the credit against the sizes of a batch, with a large run on paper, and branched rollouts
against independent ones, with Transformers and, where it is installed, vLLM. Absolute times depend
on the machine; quote the ratios. The training step runs on an accelerator where torch sees one, the
rest on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from benchmarks.speed import kernels, rollout, scaling
from benchmarks.speed.probe import LENGTHS, probed_steps
from benchmarks.speed.step import Shape, training_step
from benchmarks.speed.tables import show
from rich.console import Console

from trl_lambda.atomic_write import replace_json
from trl_lambda.versions import installed_versions

PARTS = ("traces", "process_sets", "step", "probe", "scale", "rollout")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python recipes/benchmarks/speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of a kernel (20)")
    parser.add_argument("--rounds", type=int, default=150, help="pairs of training steps (150)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1: less noise)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    step = parser.add_argument_group("sizes of the training step")
    step.add_argument("--hidden_size", type=int, default=Shape.hidden_size, help="(%(default)s)")
    step.add_argument("--layers", type=int, default=Shape.layers, help="(%(default)s)")
    step.add_argument(
        "--groups", type=int, default=Shape.groups, help="of 8 completions (%(default)s)"
    )
    step.add_argument(
        "--length", type=int, default=Shape.length, help="tokens a completion (%(default)s)"
    )
    step.add_argument(
        "--probe_lengths", type=int, nargs="+", default=LENGTHS, help="the same, of --parts probe"
    )
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = Shape(options.hidden_size, options.layers, options.groups, options.length)
    parts = {
        "traces": lambda: kernels.traces(options.repeats),
        "process_sets": lambda: kernels.process_sets(options.repeats),
        "step": lambda: training_step(options.rounds, shape),
        "probe": lambda: probed_steps(min(options.rounds, 15), shape, options.probe_lengths),
        "scale": lambda: scaling.rows(min(options.repeats, 5)),
        "rollout": lambda: rollout.rows(options.groups, min(options.repeats, 5)),
    }
    results = {}
    for name in options.parts:
        results[name] = parts[name]()
        show(Console(), name, results[name])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        replace_json(options.json, results | {"versions": installed_versions()})


if __name__ == "__main__":
    main()
