"""Run in a terminal: a training with a progress bar whose completions are all cut off."""

from __future__ import annotations

import sys

import tiny


def reward(completions, **columns):
    return [float(i % 2) for i in range(len(completions))]


if __name__ == "__main__":
    cut_off = [[5] * 8, [6] * 8, [7] * 8, [8] * 8]
    tiny.trainer(
        sys.argv[1],
        reward_funcs=reward,
        rollout_func=tiny.scripted(cut_off),
        settings={"max_steps": 8, "disable_tqdm": False},
    ).train()
