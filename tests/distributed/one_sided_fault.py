"""Run by `accelerate launch`: only the last process has something wrong, and all must say so."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import on_cpu
import tiny


def main(fault: str, folder: Path) -> None:
    state = on_cpu.process_state()
    is_last = state.is_last_process
    completion = [] if is_last and fault == "empty" else [5, 6, tiny.EOS]

    def steps(completions, **columns):
        count = len(completions) - int(is_last and fault == "steps")
        return [[(0, 1.0)]] * count

    trainer = tiny.trainer(
        tempfile.mkdtemp(),
        rollout_func=tiny.scripted([completion]),
        settings={"td_error": "process", "normalize_trace": False},
        process_reward_funcs=steps,
    )
    try:
        trainer.train()
    except ValueError as error:
        (folder / f"{state.process_index}.txt").write_text(str(error))
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
