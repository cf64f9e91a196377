"""`python -m trl_lambda.report`: see `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .writing import MAX_MB, write_report

DESCRIPTION = """\
Writes one HTML file that shows what a run's credit did. It opens from disk and needs no network.

  completions   every token shaded by its credit, token gain, process-set weight, probability,
                surprise, entropy, KL or clipping
  process sets  the shared prefixes of a group as a tree, coloured by mean reward; of a branched
                group its forks
  run           reward, accuracy, length, entropy, clipping, path depth over steps

It reads RUN_DIR/credit_log, which training with credit_log_steps=N leaves there.
"""
EXAMPLES = """\
examples:
  python -m trl_lambda.report outputs/grpo_lambda
  python -m trl_lambda.report outputs/seed-1 outputs/seed-2 outputs/seed-3 --output seeds.html
  python -m trl_lambda.report outputs/grpo_lambda --png

Runs whose settings differ in the seed alone are drawn as one line: mean and 95 % interval.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m trl_lambda.report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", help="output_dir of a run")
    made.add_argument(
        "--output",
        metavar="FILE",
        help="the page to write (default: credit_report.html in the first RUN_DIR)",
    )
    made.add_argument(
        "--png", action="store_true", help="also write the three views as PNG, beside the page"
    )
    made.add_argument(
        "--max-mb",
        type=float,
        default=MAX_MB,
        help="megabytes the page may weigh; where not all groups fit, it shows some that are "
        "spread over the training and says so (default: %(default)s)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files, prints their paths; 1 and a sentence on stderr where that fails."""
    asked = parser().parse_args(arguments)
    try:
        paths = write_report(asked.run_dirs, asked.output, png=asked.png, max_mb=asked.max_mb)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
