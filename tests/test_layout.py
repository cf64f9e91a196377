"""The rooms of the package: which way imports run, and where privates of others may be touched."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trl_lambda"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room of ours may import of ours; a folder is one room.
ARROWS = {
    "": {"config", "trainer"},
    "atomic_write": set(),
    "batch_plan": set(),
    "bridges": {"credit", "functional", "options"},
    "checkpoints": set(),
    "config": {"batch_plan", "credit", "options"},
    "credit": {"functional"},
    "credit_log": {"atomic_write", "versions"},
    "data": {"rewards", "templates"},
    "evaluation": {"atomic_write", "rewards", "templates", "versions"},
    "functional": {"functional"},
    "groups": {"functional", "scored_batch"},
    "health": {"credit"},
    "hub": {"__version__", "atomic_write", "versions"},
    "metrics": {"functional"},
    "options": {"credit", "functional"},
    "report": {"credit_log", "evaluation"},
    "rewards": set(),
    "scored_batch": {"functional"},
    "seam": {"functional", "scored_batch"},
    "templates": set(),
    "trainer": {
        "batch_plan",
        "checkpoints",
        "config",
        "credit",
        "credit_log",
        "functional",
        "groups",
        "health",
        "hub",
        "metrics",
        "report",
        "scored_batch",
        "seam",
    },
    "versions": {"__version__"},
}
# Attributes of others that start with an underscore, and the one file that may say them.
PRIVATES = {
    # TRL's trainer
    "_calculate_rewards": "seam/trainer.py",
    "_compute_loss": "seam/trainer.py",
    "_generate_and_score_completions": "seam/trainer.py",
    "_get_per_token_logps_and_entropies": "seam/trainer.py",
    "_iter_named_params": "seam/vllm_cpu.py",  # of its VLLMGeneration
    "_log_completion_extra": "seam/trainer.py",
    "_log_metric": "seam/trainer.py",
    "_logs": "seam/trainer.py",
    "_metrics": "seam/trainer.py",
    "_pending_extra_logs": "seam/trainer.py",
    "_pending_metrics": "seam/trainer.py",
    # TRL's and transformers' state that a checkpoint must hold
    "_buffered_inputs": "checkpoints/trainer.py",
    "_get_output_dir": "checkpoints/trainer.py",
    "_get_train_sampler": "checkpoints/trainer.py",
    "_init_training_state": "checkpoints/trainer.py",
    "_keys_to_ignore_on_save": "checkpoints/weights.py",
    "_last_loaded_step": "checkpoints/trainer.py",
    "_last_world_entropy": "checkpoints/trainer.py",
    "_load_best_model": "checkpoints/trainer.py",
    "_load_from_checkpoint": "checkpoints/trainer.py",
    "_load_optimizer_and_scheduler": "checkpoints/trainer.py",
    "_load_rng_state": "checkpoints/trainer.py",
    "_save_checkpoint": "checkpoints/trainer.py",
    "_save_rng_state": "checkpoints/trainer.py",
    "_step": "checkpoints/trainer.py",
    # TRL's model card
    "_name": "trainer.py",
    "_tag_names": "trainer.py",
    # transformers' config
    "_name_or_path": "trainer.py",
}


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


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


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_run_one_way(path):
    own = room(path)
    assert own in ARROWS, f"{path.name} is a new room: say in ARROWS what it may import"
    assert imported(path) <= ARROWS[own] | {own}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_privates_of_others_are_touched_in_one_file(path):
    if named(path) == "seam/contract.py":
        return  # names what it compares, and calls none of it
    said = set(re.findall(r"\b_[a-z]\w+", path.read_text()))
    assert {name for name in said & set(PRIVATES) if PRIVATES[name] != named(path)} == set()


def test_the_list_of_privates_is_current():
    for name, file in PRIVATES.items():
        assert re.search(rf"\b{name}\b", (PACKAGE / file).read_text()), name


@pytest.mark.parametrize("path", FILES, ids=named)
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
    assert {named(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}
