"""A pack has what was asked for: its start, its problems, and the options on its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.language import __main__ as program
from benchmarks.language import gpu_pack, problems, training
from benchmarks.language.gpu_pack import Pack
from benchmarks.language.model import known_as
from benchmarks.language.tasks import as_rows, task
from benchmarks.language.warm_start import STARTS, WarmStart, warm_start_of
from language_runs import chat_model


def test_the_tasks_of_a_pack_are_those_that_the_benchmark_makes(tmp_path):
    gpu_pack.add_tasks(Pack(tmp_path), gpu_pack.PARTS)
    for part in gpu_pack.PARTS:
        there, ours = task("words", tmp_path / "tasks"), problems.part(part)
        assert there.part(part) == as_rows(ours)
        assert there.solutions(part) == [p.solution for p in ours]
    with pytest.raises(SystemExit, match=r"held_out.jsonl is not there; expected the folder tasks"):
        task("words", tmp_path).part("held_out")


def test_the_line_has_the_options_of_the_packing():
    def options(*given: str) -> str:
        return gpu_pack.run_options(program.parse_arguments([*given]))

    assert options("--source", "x", "--output_dir", "y") == gpu_pack.TEN_MINUTES
    given = "--arms 'grpo + floor' default --rates 0.0001 --steps 3 --workers 4"
    assert options("--arms", "grpo + floor", "default", "--rates", "1e-4", "--workers", "4",
                   "--steps", "3") == given  # fmt: skip
    # Also where what is given is what would be taken without it.
    assert options("--size", "full", "--workers", "1") == "--size full --workers 1"
    assert options("--budget_hours", "24") == "--budget_hours 24.0"
    more = "--measurements 3 --checkpoint_every 5 --keep_models"
    assert options(*more.split()) == more
    parser = program.parse_arguments(options(*more.split()).split())
    assert (parser.measurements, parser.checkpoint_every, parser.keep_models) == (3, 5, True)
    # As many trainings as fit side by side, none left over.
    args = program.parse_arguments(gpu_pack.TEN_MINUTES.split())
    made = program.SIZES["full"] | {"micro_batch": args.micro_batch}
    assert args.workers == 4 * len(args.seeds)
    assert made["groups"] * training.Size().completions % made["micro_batch"] == 0


def test_the_readme_of_the_benchmark_has_the_line():
    text = (Path(gpu_pack.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert f"```bash\n{gpu_pack.shell_line(gpu_pack.TEN_MINUTES)}\n```" in text


def test_every_option_of_a_run_is_packed_or_refused():
    """What the machine would not be told is refused here, and nothing is dropped."""
    others = {
        *("output_dir", "task", "source", "model", "data", "demonstrations"),  # what is packed
        *("gpu_pack", "python_version", "platform"),
        *("probe", "called", "report", "results", "readme"),  # refused
    }
    options = set(vars(program.parse_arguments([]))) - {"given"}
    assert options == others | set(gpu_pack.RUN_OPTIONS)


@pytest.mark.parametrize(
    "given", [["--report"], ["--results", "x"], ["--readme", "x"], ["--probe"], ["--called", "x"]]
)
def test_what_a_pack_has_no_use_for_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        program.parse_arguments(["--gpu-pack", "pack", *given])
    assert given[0] in capsys.readouterr().err


def written(tmp_path, monkeypatch, *given: str) -> str:
    """The line of a pack without wheels."""
    monkeypatch.setattr(gpu_pack, "add_wheels", lambda *given: None)
    model = tmp_path / "made_up"
    if not model.exists():
        chat_model(model)
    args = program.parse_arguments(
        [
            *("--gpu-pack", str(tmp_path / "pack"), "--output_dir", str(tmp_path / "out")),
            *("--model", str(model), *given),
        ]
    )
    gpu_pack.write_pack(args, program.asked_plan(args))
    return re.search("```bash\n(.+)\n```", (tmp_path / "pack" / "README.md").read_text())[1]


def test_the_pack_has_the_start_that_was_asked_for(tmp_path, monkeypatch):
    told = ("--demonstrations", "answers_at_once")
    how, record = STARTS["answers_at_once"], tmp_path / "pack" / "model" / "packed.json"
    line = written(tmp_path, monkeypatch, *told)
    assert line.endswith(f"{gpu_pack.TEN_MINUTES} --demonstrations answers_at_once")
    assert json.loads(record.read_text())["made"] is None
    # It is made of other demonstrations than the usual start, which stays where it is.
    origin = known_as(str(tmp_path / "made_up"))
    chat_model(warm_start_of(origin, tmp_path / "out", WarmStart())[0])
    assert written(tmp_path, monkeypatch, *told) == line
    warm, made = warm_start_of(origin, tmp_path / "out", how)
    chat_model(warm)
    assert written(tmp_path, monkeypatch, *told).endswith(gpu_pack.TEN_MINUTES)
    assert json.loads(record.read_text())["made"] == made


def test_the_pack_has_the_problems_that_were_given(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    for part, count in (("held_out", 128), ("training", 16), ("validation", 128)):
        rows = as_rows(problems.part(part)[5 : 5 + count])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "own" / f"{part}.jsonl").write_text(text)
    given = ("--data", str(tmp_path / "own"), "--held_out", "128")
    written(tmp_path, monkeypatch, *given)
    for part in gpu_pack.PARTS:
        ours, theirs = (task("words", tmp_path / name).part(part) for name in ("own", "pack/tasks"))
        assert ours == theirs
    (tmp_path / "own" / "training.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"training.jsonl is not there"):
        written(tmp_path, monkeypatch, *given)
    (tmp_path / "own" / "training.jsonl").write_text(text)
    (tmp_path / "own" / "validation.jsonl").unlink()
    written(tmp_path, monkeypatch, *given, "--rates", "1e-5")
    assert not (tmp_path / "pack" / "tasks" / "validation.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--arms", "grpo + trace_style=recent + trace_lambda=5"], "trace_lambda=5"),
        (["--seeds", "0", "0"], "more than once"),
        (["--groups", "3", "--micro_batch", "16"], "24 completions"),
    ],
)
def test_what_would_fail_there_is_refused_here(tmp_path, monkeypatch, given, said):
    with pytest.raises(SystemExit, match=re.escape(said)):
        written(tmp_path, monkeypatch, *given)
    assert not (tmp_path / "pack").exists()
