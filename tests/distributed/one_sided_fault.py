"""Run by `accelerate launch`: only the last process has something wrong.

    one_sided_fault.py FAULT FOLDER

With "empty", "steps", "infinite", "td_error_shape" and "asks_less" our checks find it; the others
raise in what is not ours. Each
process writes FOLDER/<rank>.txt, what it raised.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import on_cpu
import tiny
import torch


def main(fault: str, folder: Path) -> None:
    state = on_cpu.process_state()
    faulty = fault if state.is_last_process else None

    def raise_for(*names: str) -> None:
        if faulty in names:
            raise RuntimeError(f"only here: {faulty}")

    def reward(completions, **columns):
        raise_for("reward")
        rewards = tiny.letter_reward(completions)
        return [float("inf"), *rewards[1:]] if faulty == "infinite" else rewards

    class RewardModel(torch.nn.Module):
        config = SimpleNamespace(_name_or_path="reward_model")

        def forward(self, input_ids, **columns):
            raise_for("reward_model")
            return SimpleNamespace(logits=torch.zeros(len(input_ids), 1))

    def steps(completions, **columns):
        raise_for("step_rewards")
        return [[(0, 1.0)]] * (len(completions) - (faulty == "steps"))

    handed_out = tiny.scripted([[] if faulty == "empty" else [5, 6, tiny.EOS]])

    def rollout(prompts, trainer):
        raise_for("rollout")
        return handed_out(prompts, trainer)

    def td_error(batch):
        raise_for("td_error")
        asked = [(0, 1, [5])] * (1 + state.process_index)  # not equally many
        if faulty != "asks_less":
            batch.log_probs(asked)
        raise_for("td_error_later")
        delta_BT = batch.advantage_B[:, None] * batch.mask_BT
        return delta_BT[:, 0] if faulty == "td_error_shape" else delta_BT

    asks = fault.startswith(("td_error", "asks"))
    by_steps = {"td_error": "process", "normalize_trace": False}
    trainer = tiny.trainer(
        tempfile.mkdtemp(),
        reward_funcs=RewardModel() if fault == "reward_model" else reward,
        reward_processing_classes=tiny.tokenizer(),
        rollout_func=rollout,
        settings={} if asks else by_steps,
        process_reward_funcs=None if asks else steps,
        td_error=td_error if asks else None,
    )
    compute_loss = trainer.compute_loss

    def loss(*args, **kwargs):
        raise_for("loss")
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = loss
    try:
        trainer.train()
    except Exception as error:
        (folder / f"{state.process_index}.txt").write_text(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
