"""The rooms of the package: which way imports run, and where privates of others may be touched."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trl_lambda"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each module of ours may import of ours. `functional` is one room.
ARROWS = {
    "": {"config", "trainer"},
    "functional": {"functional"},
    "batch_sizes": set(),
    "batch_plan": {"batch_sizes"},
    "callbacks": set(),
    "credit": {"functional"},
    "bridges": {"credit", "functional", "options"},
    "data": {"rewards", "rows", "templates"},
    "dropout": {"credit"},
    "evaluation": {"rewards", "templates"},
    "kl": set(),
    "config": {"batch_sizes", "credit", "functional"},
    "metrics": {"functional"},
    "rollout_checks": {"functional"},
    "checkpoints": set(),
    "reference": set(),
    "resume": {"checkpoints", "reference"},
    "sampling_mismatch": set(),
    "seam_check": set(),
    "vllm_cpu": set(),
    "seam": {"functional", "kl", "resume", "rollout_checks", "seam_check", "vllm_cpu"},
    "groups": {"functional", "seam"},
    "report": set(),
    "hub": {"__version__"},
    "rewards": set(),
    "rows": set(),
    "templates": set(),
    "credit_log": set(),
    "recorder": {"credit_log"},
    "tracker_figures": {"credit_log", "report"},
    "trainer": {
        "batch_plan",
        "callbacks",
        "config",
        "credit",
        "functional",
        "credit_log",
        "dropout",
        "groups",
        "hub",
        "kl",
        "metrics",
        "recorder",
        "reference",
        "seam",
        "rollout_checks",
        "sampling_mismatch",
        "tracker_figures",
        "vllm_cpu",
    },
}
# Attributes of others that start with an underscore, and the one file that may say them.
PRIVATES = {
    # TRL's trainer
    "_calculate_rewards": "seam.py",
    "_compute_loss": "seam.py",
    "_generate_and_score_completions": "seam.py",
    "_get_per_token_logps_and_entropies": "seam.py",
    "_iter_named_params": "vllm_cpu.py",  # of its VLLMGeneration
    "_log_completion_extra": "seam.py",
    "_log_metric": "seam.py",
    "_logs": "seam.py",
    "_metrics": "seam.py",
    # TRL's and transformers' state that a checkpoint must hold
    "_buffered_inputs": "resume.py",
    "_get_output_dir": "resume.py",
    "_get_train_sampler": "resume.py",
    "_load_rng_state": "resume.py",
    "_save_checkpoint": "resume.py",
    "_save_rng_state": "resume.py",
    "_step": "resume.py",
    # TRL's model card
    "_name": "trainer.py",
    "_tag_names": "trainer.py",
    # transformers' config
    "_name_or_path": "trainer.py",
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> set[str]:
    """Rooms of ours that a file imports, lazily or not."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level == depth:
                found |= (
                    {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
                )
            elif node.level:
                found.add(room(path))
            elif node.module and node.module.split(".")[0] == "trl_lambda":
                found |= set(node.module.split(".")[1:2])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = room(path)
    assert own in ARROWS, f"{path.name} is a new room: say in ARROWS what it may import"
    assert imported(path) <= ARROWS[own] | {own}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_privates_of_others_are_touched_in_one_file(path):
    if path.name == "seam_check.py":
        return  # names what it compares, and calls none of it
    said = set(re.findall(r"\b_[a-z]\w+", path.read_text()))
    assert {name for name in said & set(PRIVATES) if PRIVATES[name] != path.name} == set()


def test_the_list_of_privates_is_current():
    for name, file in PRIVATES.items():
        assert re.search(rf"\b{name}\b", (PACKAGE / file).read_text()), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_of_others_is_left_out_of_the_list(path):
    """An underscored attribute is our own, or stands in PRIVATES."""
    own, read = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            (own if isinstance(node.ctx, ast.Store) else read).add(node.attr)
    assert read - own <= set(PRIVATES)


def test_functional_needs_torch_alone():
    third_party = set()
    for path in FILES:
        if room(path) == "functional":
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                third_party |= {name.split(".")[0] for name in names}
    assert third_party - {"__future__", "collections", "dataclasses", "math", "typing"} == {"torch"}


def test_files_stay_small():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}
