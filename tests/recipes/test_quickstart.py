"""The quickstart: everything runs in seconds with --smoke. `.ci/run` makes the full run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import quickstart
from benchmarks import quickstart_seeds
from benchmarks.learning.table import between_marks
from quickstart_parts import settings
from quickstart_parts.blanks import SOLUTION_TOKENS

from trl_lambda.credit_log.forks import has_forks
from trl_lambda.report import load_run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "benchmarks" / "results" / "quickstart.json"
ACCURACIES = ("accuracy_before", "accuracy_after", "accuracy_after_grpo", "seconds")
TOKENS = ("generated_tokens", "generated_tokens_grpo")


@pytest.fixture
def smoke(run_recipe):
    def smoke(*more: str, **options):
        return run_recipe("quickstart.py", "--output_dir", "out", "--smoke", *more, **options)

    return smoke


@pytest.mark.slow
def test_smoke_run_writes_all_it_promises(smoke, tmp_path):
    process = smoke()
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert all(isinstance(summary[name], float) for name in ACCURACIES)
    assert all(isinstance(summary[name], int) for name in TOKENS)
    assert (out / "learning.png").read_bytes().startswith(b"\x89PNG")
    for folder in ("warm_start", "grpo", "model"):
        assert (out / folder / "model.safetensors").is_file()
        assert (out / folder / "tokenizer.json").is_file()
    grpo, ours = json.loads((out / "curves.json").read_text())
    assert grpo["accuracy"][0] == ours["accuracy"][0]  # the same start, measured alike
    assert len(grpo["rewards"]) == len(ours["rewards"]) == summary["budget"]["steps"]
    assert summary["accuracy_after"] == ours["accuracy"][-1][1]
    most = summary["budget"]["steps"] * summary["budget"]["completions"] * SOLUTION_TOKENS
    for name, curve in (("generated_tokens_grpo", grpo), ("generated_tokens", ours)):
        assert curve["generated"][0] == 0
        assert len(curve["generated"]) == len(curve["accuracy"])
        assert 0 < curve["generated"][-1] == summary[name] <= most
    # What differs from the defaults is said, the method with it.
    for name in summary["differs_from_defaults"]:
        assert name in process.stdout
    assert {"learning_rate", "method"} <= summary["differs_from_defaults"].keys()
    assert "LambdaGRPOTrainer: method='branch' changes" in process.stdout
    for bar in ("1/3", "2/3", "3/3"):
        assert bar in process.stderr
    # The report shows groups that were really forked.
    groups = load_run(out / "model").groups
    assert groups
    assert all(has_forks(group["completions"]) for group in groups)
    assert (out / "credit_report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_earlier_results_are_kept_unless_told_otherwise(smoke, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text("precious")
    (out / "notes.txt").write_text("mine")
    refused = smoke(succeeds=False)
    assert "--overwrite" in refused.stderr
    assert "summary.json" in refused.stderr
    assert (out / "summary.json").read_text() == "precious"
    assert sorted(p.name for p in out.iterdir()) == ["notes.txt", "summary.json"]
    smoke("--overwrite")
    assert "accuracy_after" in json.loads((out / "summary.json").read_text())
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_write_one_result(smoke, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = smoke(launcher=launcher, seconds=180)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["differs_from_defaults"]["per_device_train_batch_size"] == 32  # half of 64
    assert process.stdout.count("Sampled accuracy") == 1


# --- what other seeds ended with ---


def test_the_readmes_say_what_the_committed_seeds_say():
    data = json.loads(RESULTS.read_text())
    page = ROOT / "recipes" / "benchmarks" / "README.md"
    assert between_marks(page, mark=quickstart_seeds.MARK) == quickstart_seeds.markdown(data)
    front = " ".join((ROOT / "README.md").read_text().split())
    assert quickstart_seeds.sentence(data) in front


def test_the_seeds_ran_what_the_quickstart_runs_with_a_rate_that_was_tried():
    data = json.loads(RESULTS.read_text())
    tuning, seeds = data["tuning"], data["seeds"]
    assert len(seeds) >= 3
    for run in tuning + seeds:
        assert run["budget"] == asdict(settings.FULL)
        assert run["label_noise"] == settings.LABEL_NOISE
    assert {(run["learning_rate"], run["learning_rate_grpo"]) for run in seeds} == {settings.RATES}
    # Both trainers had every rate as often, and have their best, which is none at the edge.
    tried = [run["learning_rate"] for run in tuning]
    assert len({tried.count(rate) for rate in tried}) == 1
    for rate, accuracy in zip(
        settings.RATES, ("accuracy_after", "accuracy_after_grpo"), strict=True
    ):
        best = max(tuning, key=lambda run: run[accuracy])
        assert rate == best["learning_rate"]
        assert min(tried) < rate < max(tried)
    assert all(run["learning_rate"] == run["learning_rate_grpo"] for run in tuning)
    # The baseline rises in every one of them.
    assert all(run["accuracy_after_grpo"] > run["accuracy_before"] + 0.2 for run in seeds)


def finished(folder: Path, **told) -> Path:
    """The output folder of a quickstart, as far as `collect` reads it."""
    run = json.loads(RESULTS.read_text())["seeds"][0] | {"smoke": False} | told
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(run))
    return folder


def test_seeds_that_chose_the_rates_are_no_evidence(tmp_path):
    tried = finished(tmp_path / "tried", seed=1, tuned=False)
    shown = finished(tmp_path / "shown", seed=1, tuned=True)
    with pytest.raises(SystemExit, match=r"Seeds \[1\] chose the learning rates"):
        quickstart_seeds.collect([tried, shown])
    other = finished(tmp_path / "other", seed=2, tuned=True, label_noise=0.5)
    with pytest.raises(SystemExit, match="differ in their budget"):
        quickstart_seeds.collect([tried, other])
    data = quickstart_seeds.collect([tried, finished(tmp_path / "third", seed=3, tuned=True)])
    assert [len(data[part]) for part in ("tuning", "seeds")] == [1, 1]


def test_runs_that_would_mislead_are_refused(tmp_path):
    good = finished(tmp_path / "good", seed=1, tuned=True)
    smoke = finished(tmp_path / "smoke", seed=2, tuned=True, smoke=True)
    with pytest.raises(SystemExit, match="smoke: runs with --smoke learn nothing"):
        quickstart_seeds.collect([good, smoke])
    again = finished(tmp_path / "again", seed=1, tuned=True)
    with pytest.raises(SystemExit, match=r"come twice: \[\(1, "):
        quickstart_seeds.collect([good, again])
    older = finished(tmp_path / "older", seed=2, tuned=True, learning_rate=1e-5)
    with pytest.raises(SystemExit, match="own rates have several"):
        quickstart_seeds.collect([good, older])


@pytest.mark.parametrize("rate", ["0", "-1e-3", "nan", "inf"])
def test_a_learning_rate_is_above_0(rate, capsys):
    with pytest.raises(SystemExit):
        quickstart.parse_arguments(["--output_dir", "out", f"--learning_rate={rate}"])
    assert f"{rate} is not a number above 0" in capsys.readouterr().err
