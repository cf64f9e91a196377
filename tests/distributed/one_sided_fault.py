"""Run by `accelerate launch`: only the last process has something wrong.

    one_sided_fault.py FAULT FOLDER

With "empty" and "steps" our checks find it; the others raise in what is not ours.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import on_cpu
import tiny


def main(fault: str, folder: Path) -> None:
    state = on_cpu.process_state()
    faulty = fault if state.is_last_process else None

    def raise_for(*names: str) -> None:
        if faulty in names:
            raise RuntimeError(f"only here: {faulty}")

    def reward(completions, **columns):
        raise_for("reward")
        return tiny.letter_reward(completions)

    def steps(completions, **columns):
        raise_for("step_rewards")
        return [[(0, 1.0)]] * (len(completions) - (faulty == "steps"))

    handed_out = tiny.scripted([[] if faulty == "empty" else [5, 6, tiny.EOS]])

    def rollout(prompts, trainer):
        raise_for("rollout")
        return handed_out(prompts, trainer)

    trainer = tiny.trainer(
        tempfile.mkdtemp(),
        reward_funcs=reward,
        rollout_func=rollout,
        settings={"td_error": "process", "normalize_trace": False},
        process_reward_funcs=steps,
    )
    compute_loss = trainer.compute_loss

    def loss(*args, **kwargs):
        raise_for("loss")
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = loss
    try:
        trainer.train()
    except ValueError as error:
        (folder / f"{state.process_index}.txt").write_text(str(error))
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
