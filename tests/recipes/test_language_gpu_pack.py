"""A pack for a machine with a GPU and no network: parts, sums, wheels, and the one shell line."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from argparse import Namespace
from importlib.metadata import distribution
from pathlib import Path

import pytest
from benchmarks.language import gpu_pack, gpu_wheels, training
from benchmarks.language.gpu_pack import Pack, packed_model
from benchmarks.language.model import known_as
from benchmarks.language.tasks import task
from benchmarks.language.warm_start import WarmStart, warm_start_of
from language_runs import chat_model
from packaging.requirements import Requirement

ROOT = gpu_pack.RECIPES.parent
HERE = gpu_wheels.Target()


@pytest.fixture
def program(monkeypatch):
    """The benchmark's own module; it sets variables for a process of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return importlib.import_module("benchmarks.language.__main__")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )


# --- parts and sums ---


def test_parts_are_small_and_joined_they_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pack, "PART", 100)
    source = tmp_path / "weights"
    source.write_bytes(bytes(i * i % 251 for i in range(1234)))
    pack = Pack(tmp_path / "pack with a blank")
    pack.add_file("model/model.safetensors", source)
    (tmp_path / "exact").write_bytes(b"a" * 100)
    pack.add_file("model/exact", tmp_path / "exact")
    pack.finish()
    names = [f"model/model.safetensors.part-{i:03}" for i in range(13)]
    assert sorted(pack.sums) == ["model/exact", *names]
    assert max((pack.folder / name).stat().st_size for name in pack.sums) == 100
    done = shell(f"sha256sum --quiet -c SHA256SUMS && {gpu_pack.JOIN}", pack.folder)
    assert done.returncode == 0, done.stderr
    assert (pack.folder / "model" / "model.safetensors").read_bytes() == source.read_bytes()
    assert pack.size() == "14 files, 0 MB in all; the largest has 0.0 MB"


def test_parts_of_a_real_pack_are_under_60_megabytes():
    assert gpu_pack.PART < 60_000_000


def test_a_damaged_part_stops_the_line(tmp_path):
    pack = Pack(tmp_path)
    pack.add("model/model.safetensors.part-000", b"right")
    pack.finish()
    (tmp_path / "model" / "model.safetensors.part-000").write_bytes(b"wrong")
    done = shell(gpu_pack.shell_line(""), tmp_path)
    assert done.returncode != 0
    assert "part-000: FAILED" in done.stdout + done.stderr
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_what_is_there_with_the_right_sum_is_kept(tmp_path):
    def filled() -> Pack:
        pack = Pack(tmp_path / "pack")
        for i in range(3):
            pack.add(f"model/{i}", b"%d" % i)
        pack.finish()
        return pack

    assert filled().written == ["model/0", "model/1", "model/2"]
    before = (tmp_path / "pack" / "model" / "0").stat().st_mtime_ns
    (tmp_path / "pack" / "model" / "1").write_bytes(b"torn")
    (tmp_path / "pack" / "model" / "2").unlink()
    (tmp_path / "pack" / "model" / "_3").write_bytes(b"left by a kill")
    (tmp_path / "pack" / "notes").write_bytes(b"not ours")
    assert filled().written == ["model/1", "model/2"]
    assert (tmp_path / "pack" / "model" / "0").stat().st_mtime_ns == before
    assert (tmp_path / "pack" / "model" / "1").read_bytes() == b"1"
    assert sorted(p.name for p in (tmp_path / "pack").rglob("*") if p.is_file()) == [
        *("0", "1", "2", "SHA256SUMS", "notes")
    ]


# --- refusals ---


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(SystemExit, match=r"not empty \(mine.txt\), and has no pack.json"):
        gpu_pack.opened(tmp_path)
    with pytest.raises(SystemExit, match="this is a file; expected a folder"):
        gpu_pack.opened(tmp_path / "mine.txt")
    gpu_pack.opened(tmp_path / "new")
    gpu_pack.opened(tmp_path / "new")  # an earlier pack


def test_what_needs_the_hub_is_refused(program):
    with pytest.raises(SystemExit, match="gsm8k: its model and data come from the Hub"):
        gpu_pack.write_pack(Namespace(task="gsm8k"), None)


def test_a_model_without_safetensors_is_refused(program, tmp_path):
    (tmp_path / "model").mkdir()
    args = program.parse_arguments(
        ["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit, match=r"model: expected a folder with \*.safetensors"):
        gpu_pack.add_model(Pack(tmp_path / "pack"), args)


def test_options_of_a_pack_without_one_are_refused(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["language", "--platform", "manylinux_2_28_x86_64"])
    with pytest.raises(SystemExit, match="are for --gpu-pack"):
        program.main()


# --- the model ---


def packed(program, tmp_path, *options: str) -> Path:
    """The folder of a pack's model, put together."""
    model = tmp_path / "made_up"
    if not model.exists():
        chat_model(model)
    args = program.parse_arguments(
        ["--model", str(model), "--output_dir", str(tmp_path / "out"), *options]
    )
    pack = Pack(tmp_path / "pack")
    gpu_pack.add_model(pack, args)
    pack.finish()
    return pack.folder / "model"


def test_a_warm_start_that_was_made_goes_along_and_is_the_start_there(program, tmp_path):
    model = known_as(str(chat_model(tmp_path / "made_up")))
    warm, made = warm_start_of(model, tmp_path / "out", WarmStart())
    chat_model(warm)
    (warm / "warm_start.json").write_text("{}")
    source = packed(program, tmp_path)
    assert (source / "warm_start.json").exists()
    args = program.parse_arguments(["--source", str(source), "--output_dir", str(tmp_path / "b")])
    assert program.find_start(args) == (str(source), made)


def test_without_a_warm_start_the_machine_makes_it(program, tmp_path, monkeypatch):
    source = packed(program, tmp_path)
    began = []
    monkeypatch.setattr(
        "benchmarks.language.warm_start.warm_start", lambda *given: began.append(given)
    )
    args = program.parse_arguments(["--source", str(source), "--output_dir", str(tmp_path / "b")])
    model = known_as(str(tmp_path / "made_up"))
    expected, made = warm_start_of(model, tmp_path / "b", WarmStart())
    assert program.find_start(args) == (str(expected), made)
    assert began == [(source, expected, WarmStart())]


def test_a_model_in_parts_is_refused_with_the_command(program, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pack, "PART", 10_000)
    source = packed(program, tmp_path)
    with pytest.raises(SystemExit, match=r"model.safetensors is still in parts") as refused:
        packed_model(source)
    assert gpu_pack.JOIN in str(refused.value)
    assert shell(gpu_pack.JOIN, source.parent).returncode == 0
    weights = (source / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "made_up" / "model.safetensors").read_bytes()
    origin = known_as(str(tmp_path / "made_up"))
    assert packed_model(source) == {"origin": origin, "made": None}
    assert packed_model(tmp_path / "made_up") is packed_model(None) is None


# --- device ---


@pytest.mark.parametrize("cuda", [True, False])
def test_bfloat16_and_the_device_follow_cuda(monkeypatch, tmp_path, cuda):
    from benchmarks import quiet

    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    run = training.Run("words", "grpo", 1e-5, 0, "held_out")
    assert training.config(run, task("words"), training.Size(), tmp_path)["bf16"] is cuda
    source = Path(quiet.__file__).read_text()
    fresh: dict = {}
    exec(compile(source, "quiet.py", "exec"), fresh)
    assert fresh["QUIET"]["use_cpu"] is not cuda


# --- wheels ---


@pytest.fixture
def own_index(tmp_path, monkeypatch) -> Path:
    """pip sees this folder alone; the package's wheel is a made-up one that needs TRL."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def build(root: Path, folder: Path, target: gpu_wheels.Target) -> Path:
        return gpu_wheels.empty_wheel(folder, "trl_lambda", "0.1", ("torch>=2", "trl>=1.11"))

    monkeypatch.setattr(gpu_wheels, "build", build)
    return index


def names(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.glob("*"))


def test_the_tree_of_wheels_ends_at_torch_and_transformers(own_index, tmp_path, monkeypatch):
    gpu_wheels.empty_wheel(own_index, "trl", "1.16.0", ("transformers>=5", "datasets"))
    gpu_wheels.empty_wheel(own_index, "datasets", "5.0", ())
    gpu_wheels.empty_wheel(own_index, "torch", "99.0", ("nvidia_cublas",))
    pack = gpu_pack.opened(tmp_path / "pack")
    gpu_pack.add_wheels(pack, HERE)
    assert names(pack.folder / "wheels") == ["datasets", "trl", "trl_lambda"]
    # Again: kept without pip. Another target, or a torn wheel: fetched anew.
    monkeypatch.setattr(gpu_wheels, "pip", None)
    again = gpu_pack.opened(pack.folder)
    gpu_pack.add_wheels(again, HERE)
    assert again.sums == pack.sums
    with pytest.raises(TypeError):
        gpu_pack.add_wheels(again, gpu_wheels.Target("3.12"))
    next((pack.folder / "wheels").glob("trl-*")).write_bytes(b"torn")
    with pytest.raises(TypeError):
        gpu_pack.add_wheels(again, HERE)


def test_a_wheel_that_there_is_not_is_named_with_the_target(own_index, tmp_path):
    target = gpu_wheels.Target("3.12", ("manylinux_2_28_aarch64",))
    with pytest.raises(
        SystemExit, match=r"no wheel of trl\S* for Python 3.12 on manylinux_2_28_aarch64"
    ):
        gpu_wheels.fetch(ROOT, target, tmp_path)


def test_without_network_the_message_says_so(own_index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(SystemExit, match="pip reached no package index"):
        gpu_wheels.fetch(ROOT, HERE, tmp_path)


def test_another_failure_is_told_in_pip_s_words():
    said = gpu_wheels.explained("a\nERROR: the disk is full", "download", HERE)
    assert "`pip download` failed" in said
    assert said.endswith("ERROR: the disk is full")


# --- the whole ---


def machine(folder: Path) -> Path:
    """A Python with PyTorch, transformers, what these need, and nothing else of this one."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    wanted, seen = ["torch", "transformers"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        for top in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "/")}:
            source, target = Path(found.locate_file(top)), site / top
            if source.exists() and not target.exists() and top != "__pycache__":
                target.symlink_to(source)
        needs = [Requirement(one) for one in found.requires or []]
        wanted += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return folder / "bin"


@pytest.mark.slow
def test_the_one_line_gives_the_table_on_a_machine_without_network(run_recipe, tmp_path):
    model = str(tmp_path / "made_up")
    warm, _ = warm_start_of(model, tmp_path / "out", WarmStart())
    chat_model(warm)
    pack = tmp_path / "pack"
    command = [
        *("--gpu-pack", str(pack), "--model", model, "--output_dir", str(tmp_path / "out")),
        *("--size", "smoke", "--arms", "default", "--rates", "1e-3", "--seeds", "0"),
        *("--workers", "2"),
    ]
    first = run_recipe("benchmarks/language", *command)
    again = run_recipe("benchmarks/language", *command)
    assert " 0 were written" in again.stdout
    line = re.search("```bash\n(.+)\n```", (pack / "README.md").read_text())[1]
    assert line in first.stdout
    found = {path.name.split("-")[0] for path in (pack / "wheels").glob("*")}
    assert {"trl", "trl_lambda", "datasets", "math_verify", "accelerate"} <= found
    assert not [n for n in found if re.match("torch$|transformers$|nvidia|triton|cuda", n)]
    for name, sum_ in (line.split("  ")[::-1] for line in
                       (pack / "SHA256SUMS").read_text().splitlines()):  # fmt: skip
        assert hashlib.sha256((pack / name).read_bytes()).hexdigest() == sum_
    moved = shutil.move(pack, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "out")
    path = f"{machine(tmp_path / 'venv')}{os.pathsep}{os.environ['PATH']}"
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = shell(line, moved, PATH=path, PYTHONPATH="", CUDA_VISIBLE_DEVICES="", **offline)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    data = json.loads((moved / "results" / "language.json").read_text())
    assert list(data["arms"]) == ["grpo", "default"]
    assert data["failed_runs"] == 0
    assert all(len(run["log"]["reward"]) == 2 for run in data["runs"].values())
