"""The engine files as accelerate reads them; tests/distributed/test_engines.py trains with each."""

import re

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from launching import ENGINES

FILES = sorted(ENGINES.glob("*.yaml"))
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def test_there_is_one_for_each_engine():
    assert [path.stem for path in FILES] == sorted(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))  # refuses what it does not know
    assert config.distributed_type == KINDS[path.stem]
    assert (config.num_processes, config.mixed_precision) == (8, "bf16")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_settings_reach_the_launch(path):
    arguments = ["--config_file", str(path), "script.py"]
    launch, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert defaults.distributed_type == KINDS[path.stem]
    assert launch.multi_gpu == (path.stem == "ddp")
    assert launch.use_fsdp == (path.stem == "fsdp2")
    assert launch.use_deepspeed == path.stem.startswith("zero")
    if launch.use_deepspeed:
        assert int(launch.zero_stage) == int(path.stem[-1])
    if launch.use_fsdp:
        assert int(launch.fsdp_version) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_in_its_header_names_it(path):
    command = re.search(r"accelerate launch --config_file (\S+)", path.read_text())
    assert command[1] == f"recipes/accelerate/{path.name}"
