"""One tiny run, number by number: what changes here changes for users.

Scripted completions, β = 0.04 and two iterations: the package's defaults, which change only with a
line in the changelog, those of earlier versions, and every trace mode with process sets. Recorded
with torch 2.13.0, transformers 5.23.0 and trl 1.16.0 on a CPU.
"""

import pytest
import tiny

COMPLETIONS = [[5, 6, 7, 1], [5, 6, 8, 1], [5, 9, 1], [4, 6, 1]]
REWARDS = [1.0, 0.0, 0.5, 0.0]
GOLDEN = {
    "default": {
        "loss": [-0.03729458, -0.1138605, -0.0364548, -0.08267773],
        "grad_norm": [1.041968, 1.038991, 0.9490907, 0.9963789],
        "kl": [0.0, 0.02529409, 0.02099411, 0.03826994],
        "parameters": 84.31904955,
    },
    "trace_and_floor": {
        "loss": [-0.3788875, -0.4492984, -0.3777595, -0.4281320],
        "grad_norm": [1.588645, 0.4500010, 1.157918, 1.143577],
        "kl": [0.0, 0.03650007, 0.02820062, 0.05579140],
        "parameters": 83.33591174,
    },
    "advantage": {
        "loss": [0.01198376, -0.0002483852, 0.01253261, 0.005804187],
        "grad_norm": [0.1854486, 0.1117120, 0.1541853, 0.1240320],
        "kl": [0.0, 0.01458739, 0.04377484, 0.06960275],
        "parameters": 84.48070258,
    },
    "ratio": {
        "loss": [0.00390625, -0.01087604, 0.004463184, -0.002991315],
        "grad_norm": [0.2054308, 0.09594443, 0.1704046, 0.1574494],
        "kl": [0.0, 0.01906315, 0.03217380, 0.05558620],
        "parameters": 84.28662079,
    },
    "weight": {
        "loss": [-0.001256803, -0.02085216, -0.0007496494, -0.01260666],
        "grad_norm": [0.2501266, 0.1473605, 0.2604778, 0.2997784],
        "kl": [0.0, 0.01136653, 0.03624942, 0.06565968],
        "parameters": 85.00396888,
    },
}


def by_row(completions, **columns):
    return [REWARDS[i % 4] for i in range(len(completions))]


SETTINGS = {
    "default": {**tiny.DEFAULT, "method": "default"},
    "trace_and_floor": tiny.TRACE_AND_FLOOR,
    **{mode: {"trace_mode": mode} for mode in ("advantage", "ratio", "weight")},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_golden_run(tmp_path, case):
    trainer = tiny.trainer(
        tmp_path,
        reward_funcs=by_row,
        rollout_func=tiny.scripted(COMPLETIONS),
        settings=SETTINGS[case] | {"beta": 0.04, "num_iterations": 2, "max_steps": 4},
    )
    trainer.train()
    logs = trainer.state.log_history[:4]
    got = {name: [entry[name] for entry in logs] for name in ("loss", "grad_norm", "kl")}
    got["parameters"] = tiny.parameters(trainer).double().square().sum().item()
    for name, want in GOLDEN[case].items():
        assert got[name] == pytest.approx(want, rel=1e-4, abs=1e-7), name
