"""An answer probe's δ and V in the log and in the report."""

import json
import random

import pytest
import tiny
from made_log import group, write_lines, write_log

from trl_lambda.credit_log.cutting import Cut
from trl_lambda.report import load_run, write_report
from trl_lambda.report.reliability import reliability


def probed(run_dir, groups=2, values=None):
    """A log whose completions have values: three segments of three tokens each."""
    rng = random.Random(0)
    write_log(run_dir, groups=1, size=2)
    made = [group(f"9{n}-0-0", step=90 + n, size=4, tokens=9, rng=rng) for n in range(groups)]
    for one in made:
        for row in one["completions"]:
            own = values or [rng.random() for _ in range(3)]
            row["value"] = [own[t // 3] for t in range(len(row["pieces"]))]
            row["td_error"] = [0.5 if t % 3 == 2 else 0.0 for t in range(len(row["pieces"]))]
    write_lines(run_dir / "credit_log" / "records-00000.jsonl", made)
    return run_dir


def test_a_run_writes_down_td_errors_and_values(tmp_path):
    trainer = tiny.trainer(
        tmp_path,
        rollout_func=tiny.scripted([[5, 6, 7, 8, tiny.EOS], [5, 9, tiny.EOS]] * 2),
        settings=tiny.DEFAULT
        | {
            "method": "probe",
            "answer_column": "gold",
            "step_ends": 2,
            "probe_calibration": False,
            "trace_lambda": 1.0,
            "scale_rewards": "none",
            "credit_log_steps": 1,
            "max_steps": 1,
        },
    )
    trainer.train()
    (first, *_) = load_run(tmp_path).groups
    row = first["completions"][0]
    assert len(row["value"]) == len(row["td_error"]) == 5
    assert row["value"][0] == row["value"][1] != row["value"][2] == row["value"][3]
    assert row["td_error"][0] == row["td_error"][2] == 0
    assert row["td_error"][1] == pytest.approx(row["value"][2] - row["value"][0], abs=1e-6)
    assert row["advantage"][0] == pytest.approx(row["reward"] - row["value"][0], rel=1e-3)
    assert write_report(tmp_path)


def test_a_run_without_a_probe_has_neither(tmp_path):
    tiny.trainer(tmp_path, settings={"credit_log_steps": 1, "max_steps": 1}).train()
    row = load_run(tmp_path).groups[0]["completions"][0]
    assert not {"value", "td_error"} & row.keys()


def test_the_page_has_the_shade_the_line_and_the_plot(tmp_path):
    (path,) = write_report(probed(tmp_path / "run"))
    page = path.read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    (drawn,) = data["reliability"]
    assert sum(drawn["count"]) == 2 * 4 * 3
    for said in ("showValues(", 'key: "td_error"', "drawReliability(", 'id="values"'):
        assert said in page


def test_predicted_and_observed_rewards_by_hand(tmp_path):
    run = load_run(probed(tmp_path / "run", groups=1, values=[0.1, 0.5, 0.9]))
    rewards = [row["reward"] for row in run.groups[0]["completions"]]
    (drawn,) = reliability([run])
    assert drawn["name"] == "run"
    assert drawn["count"] == [1, 1, 1, 1, 2] * 2
    total = sum(n * p for n, p in zip(drawn["count"], drawn["predicted"], strict=True))
    assert total == pytest.approx(4 * 1.5)
    observed = sum(n * o for n, o in zip(drawn["count"], drawn["observed"], strict=True))
    assert observed == pytest.approx(3 * sum(rewards))


def test_a_run_without_values_is_not_drawn(tmp_path):
    assert reliability([load_run(write_log(tmp_path / "run", groups=2))]) == []


def test_values_of_another_length_are_named(tmp_path):
    run_dir = probed(tmp_path / "run", groups=1)
    path = run_dir / "credit_log" / "records-00000.jsonl"
    made = json.loads(path.read_text())
    made["completions"][0]["value"].pop()
    write_lines(path, [made])
    with pytest.raises(ValueError, match=r"value must have one entry for each of the 9 tokens"):
        load_run(run_dir)


def test_values_are_cut_with_their_tokens():
    rng = random.Random(0)
    row = group("1-0-0", step=1, size=2, tokens=9, rng=rng)["completions"][0]
    row |= {"value": list(range(9)), "td_error": [0.0] * 9}
    shorter = Cut.of(9, 4, mark=-1).completion(row)
    assert shorter["value"] == [0, 1, None, 7, 8]
    assert len(shorter["td_error"]) == len(shorter["pieces"]) == 5
