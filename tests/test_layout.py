"""The rooms of the package: which way imports run, and where internals of others may be touched."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

PACKAGE = Path(__file__).parents[1] / "trl_lambda"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room of ours may import of ours; a folder is one room.
ARROWS = {
    "": {"config", "td_errors", "trainer"},
    "atomic_write": set(),
    "batch_plan": {"rollout"},
    "bridges": {"credit", "functional", "methods", "rule", "td_errors"},
    "checkpoints": {"console", "host"},
    "config_fields": {"methods"},
    "config": {"batch_plan", "config_fields", "methods", "option_values", "rule", "td_errors"},
    "console": set(),
    "credit": {"functional", "methods", "rule", "td_errors"},
    "credit_log": {"atomic_write", "console", "versions"},
    "data": {"rewards", "templates"},
    "evaluation": {"atomic_write", "console", "host", "rewards", "templates", "versions"},
    "functional": {"functional"},
    "groups": {"functional", "scored_batch"},
    "health": {"console", "rule"},
    "host": set(),
    "hub": {"__version__", "atomic_write", "console", "host", "methods", "templates", "versions"},
    "methods": set(),
    "metrics": {"functional"},
    "option_values": {"functional", "methods", "td_errors"},
    "observer": {
        "config",
        "credit",
        "credit_log",
        "host",
        "metrics",
        "report",
        "rule",
        "scored_batch",
        "seam",
        "td_errors",
        "trainer",  # its type alone
    },
    "probe": {
        "checkpoints",
        "console",
        "functional",
        "methods",
        "rewards",
        "rule",
        "scored_batch",
        "seam",
        "td_errors",
    },
    "report": {"console", "credit_log", "evaluation"},
    "rewards": {"templates"},
    "rollout": set(),
    "rule": {"methods", "option_values", "rollout", "td_errors", "trl_settings"},
    "scored_batch": {"functional"},
    "scripts": {
        "atomic_write",
        "checkpoints",
        "config",
        "data",
        "evaluation",
        "hub",
        "rewards",
        "td_errors",
        "templates",
        "trainer",
    },
    "seam": {"console", "functional", "methods", "rollout", "scored_batch", "td_errors"},
    "td_errors": {"functional", "groups"},  # the type of groups alone
    "templates": set(),
    "trainer": {
        "batch_plan",
        "checkpoints",
        "config",
        "console",
        "credit",
        "functional",
        "groups",
        "health",
        "host",
        "hub",
        "methods",
        "observer",
        "rollout",
        "probe",
        "rule",
        "scored_batch",
        "seam",
        "td_errors",
        "templates",
    },
    "trl_settings": {"methods"},
    "versions": {"__version__"},
}
# Attributes of others that start with an underscore, and the one file that may say them.
PRIVATES = {
    # TRL's trainer
    "_calculate_rewards": "seam/trainer.py",
    "_compute_loss": "seam/trainer.py",
    "_generate_and_score_completions": "seam/trainer.py",
    "_generate_single_turn": "seam/branching.py",
    "_llm_weights_sleeping": "seam/branching.py",  # of its VLLMGeneration
    "_tokenizer": "seam/branching.py",
    "_get_per_token_logps_and_entropies": "seam/trainer.py",
    "_iter_named_params": "seam/vllm_cpu.py",  # of its VLLMGeneration
    "_log_completion_extra": "seam/trainer.py",
    "_log_metric": "seam/trainer.py",
    # latex2sympy's sets and chains
    "_unsorted_args": "rewards/reading.py",
    # sympy's numbers
    "_prec": "rewards/comparison.py",
    "_logs": "seam/trainer.py",
    "_metrics": "seam/trainer.py",
    # transformers' pushes of what it has pickled
    "_push_from_checkpoint": "hub/hub_trainer.py",
    "_pending_extra_logs": "seam/trainer.py",
    "_pending_metrics": "seam/trainer.py",
    # TRL's and transformers' state that a checkpoint must hold
    "_buffered_inputs": "checkpoints/trainer.py",
    "_get_output_dir": "checkpoints/trainer.py",
    "_get_train_sampler": "checkpoints/trainer.py",
    "_init_training_state": "checkpoints/trainer.py",
    "_keys_to_ignore_on_save": "checkpoints/weights.py",
    # transformers' models: their attention, and a state beside it
    "_attn_implementation": "seam/packed.py",
    "_is_stateful": "seam/packed.py",
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
    # transformers' config, and its word for "this is no call of a user's"
    "_name_or_path": "trainer.py",
    "_internal_call": "hub/hub_trainer.py",
}
# Names of others without an underscore that no documentation promises, and the one file that may
# say them.
INTERNALS = {
    # TRL's and transformers' trainer
    "callback_handler": "host.py",
    "is_deepspeed_enabled": "host.py",
    "is_fsdp_enabled": "host.py",
    "reward_func_names": "host.py",
    "current_gradient_accumulation_steps": "seam/trainer.py",
    "environment_factories": "seam/trainer.py",
    "eos_token_ids": "seam/branching.py",
    "ref_model": "checkpoints/trainer.py",
    "vllm_generation": "seam/branching.py",
    # transformers' push in the background
    "is_done": "hub/push.py",
    "jobs": "hub/push.py",
    "push_in_progress": "hub/push.py",
    "wait_until_done": "hub/push.py",
    # what TRL's scoring hands to its loss
    "completion_mask": "seam/trainer.py",
    "num_images": "seam/trainer.py",
    "num_items_in_batch": "seam/trainer.py",
    "old_per_token_logps": "seam/loss_plan.py",
    "pixel_values": "seam/trainer.py",
    "prompt_mask": "seam/trainer.py",
    "ref_per_token_logps": "seam/loss_plan.py",
    "tool_mask": "seam/trainer.py",
    # TRL's functions below its top level
    "compute_liger_loss": "seam/liger.py",
    "disable_gradient_checkpointing": "evaluation/callback.py",
    "get_comet_experiment_url": "hub/hub_trainer.py",
    "get_config_model_id": "hub/hub_trainer.py",
    "get_trackio_space_url": "hub/hub_trainer.py",
    "sync_target_model": "checkpoints/reference.py",
    "unwrap_model_for_generation": "evaluation/callback.py",
    # transformers
    "JITCheckpointCallback": "checkpoints/trainer.py",
    "PREFIX_CHECKPOINT_DIR": "checkpoints/trainer.py",
    "distributed_state": "config.py",
    "model_tags": "hub/hub_trainer.py",
    "unsloth_version": "hub/hub_trainer.py",
    # DeepSpeed's mark on a sharded parameter
    "ds_id": "checkpoints/reference.py",
    # vLLM, and TRL's wrapper of it
    "llm_engine": "seam/vllm_cpu.py",
    "max_model_len": "evaluation/vllm_generator.py",
    "model_runner": "seam/vllm_cpu.py",
    "process_weights_after_loading": "seam/vllm_cpu.py",
    "quant_method": "seam/vllm_cpu.py",
    "reload_weights": "seam/vllm_cpu.py",
    "sync_weights": "seam/vllm_cpu.py",
    # verl and its TransferQueue
    "compute_advantage": "bridges/verl_batch.py",
    "compute_advantage_for_multi_trajectories": "bridges/verl_batch.py",
    "compute_response_mask": "bridges/verl_batch.py",
    "kv_batch_get": "bridges/verl_batch.py",
}
# Attributes of the trainer that the documentation of transformers and TRL shows; the last has the
# name and meaning of a model's.
DOCUMENTED = {"accelerator", "environments", "model_wrapped", "state", "generation_config"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> set[str]:
    """Rooms of ours that a file imports, lazily or not."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(parsed(path)):
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


def defined_by_us() -> set[str]:
    """Functions, classes and fields of the whole package."""
    own = set()
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
    return own


def stored_by_us() -> set[str]:
    """Attributes that the package sets."""
    return {
        node.attr
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


DEFINED = defined_by_us()
OURS = DEFINED | stored_by_us()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_private_of_others_is_left_out_of_the_list(path):
    """An underscored attribute is our own, or stands in PRIVATES."""
    read = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Store):
            read.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            read |= {one.value for one in node.args[1:2] if isinstance(one, ast.Constant)}
    read = {name for name in read if re.match(r"_[a-z]", name)} - {"_fields"}  # a named tuple's
    assert read - OURS <= set(PRIVATES)


def leaned_on(path: Path) -> set[str]:
    """Names that a file imports or says as a whole string, and attributes that none of ours is."""
    read, said = set(), set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            read.add(node.attr)
        elif isinstance(node, ast.alias):
            said.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            said.add(node.value)
    return said | (read - DEFINED)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_internals_of_others_are_touched_in_one_file(path):
    if named(path) == "seam/contract.py":
        return
    said = leaned_on(path) & set(INTERNALS)
    assert {name for name in said if INTERNALS[name] != named(path)} == set()


def test_the_list_of_internals_is_current():
    assert [n for n, file in INTERNALS.items() if n not in leaned_on(PACKAGE / file)] == []


def read_of_the_trainer(path: Path) -> Iterator[str]:
    """Attributes of `self` in our trainers, and of `trainer` everywhere."""
    tree = parsed(path)
    ours = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and "Trainer" in n.name]
    places = [(tree, ("trainer", "self.trainer")), *((cls, ("self",)) for cls in ours)]
    for place, owners in places:
        for node in ast.walk(place):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners:
                yield node.attr
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                owner, name = node.args[:2]
                yield from {name.value} if ast.unparse(owner) in owners else ()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_internal_of_the_trainer_is_left_out_of_the_list(path):
    """What we read of a trainer has the name of an argument or a setting, is a documented method,
    or stands in a table."""
    public = set(inspect.signature(GRPOTrainer.__init__).parameters) | DOCUMENTED
    public |= {one.name for one in fields(GRPOConfig)}
    public |= {n for n, member in vars(Trainer).items() if callable(member) and member.__doc__}
    read = {name for name in read_of_the_trainer(path) if not name.startswith("_")}
    assert read - OURS - public - set(INTERNALS) == set()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_function_below_the_top_of_trl_is_left_out_of_the_list(path):
    if named(path) == "seam/contract.py":
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trl."):
            assert {alias.name for alias in node.names} <= set(INTERNALS)


def test_functional_needs_torch_alone():
    third_party = set()
    for path in FILES:
        if room(path) == "functional":
            for node in ast.walk(parsed(path)):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                third_party |= {name.split(".")[0] for name in names}
    assert third_party - {"__future__", "collections", "dataclasses", "math", "typing"} == {"torch"}


NAMES = r"[\w*`]+(, [\w*`…]+)*"
FRAGMENT = re.compile(
    rf'^\s*(r?"""|# )(What|Of|Whose) |^ +{NAMES}: ([wW]hat|[oO]f|[wW]hose) |  # (of|what|whose) '
)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_docstring_or_comment_begins_with_of_or_what(path):
    """Such a line is a fragment: it does not name its subject."""
    lines = enumerate(path.read_text().splitlines(), start=1)
    assert [(n, line) for n, line in lines if FRAGMENT.search(line)] == []


def test_files_stay_small():
    assert {named(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}


# --- recipes/: scripts that import what users may import, in one direction ---

RECIPES = PACKAGE.parent / "recipes"
RECIPE_FILES = sorted(RECIPES.rglob("*.py"))
# What each recipe may import of ours: modules of the package, other recipes by their room.
RECIPE_ARROWS = {
    "benchmarks.front_page": {"benchmarks.learning"},
    "benchmarks.quickstart_seeds": {"benchmarks.learning", "trl_lambda.atomic_write"},
    "benchmarks.gradient_scale": {
        "benchmarks.language",
        "benchmarks.learning",
        "benchmarks.quiet",
        "benchmarks.scripted",
        "trl_lambda",
    },
    "benchmarks.grading": {"trl_lambda.rewards"},
    "benchmarks.language": {
        "benchmarks.learning",
        "benchmarks.quiet",
        "quickstart_parts",
        "trl_lambda",
        "trl_lambda.atomic_write",
        "trl_lambda.evaluation.metrics",
        "trl_lambda.evaluation.transformers_generator",
        "trl_lambda.functional",
        "trl_lambda.functional.segments",
        "trl_lambda.methods",
        "trl_lambda.probe.asking",
        "trl_lambda.probe.step_ends",
        "trl_lambda.probe.worth",
        "trl_lambda.rewards",
        "trl_lambda.rule",
        "trl_lambda.scored_batch",
        "trl_lambda.seam.continuations",
        "trl_lambda.versions",
    },
    "benchmarks.learning": {
        "benchmarks.quiet",
        "quickstart_parts",
        "trl_lambda",
        "trl_lambda.atomic_write",
        "trl_lambda.evaluation.intervals",
        "trl_lambda.versions",
    },
    "benchmarks.process_sets": {
        "trl_lambda.credit",
        "trl_lambda.functional",
        "trl_lambda.report.figures",
        "trl_lambda.rule",
    },
    "benchmarks.quiet": set(),
    "benchmarks.scripted": set(),
    "benchmarks.speed": {
        "benchmarks.quiet",
        "benchmarks.scripted",
        "quickstart_parts",
        "trl_lambda",
        "trl_lambda.atomic_write",
        "trl_lambda.credit",
        "trl_lambda.functional",
        "trl_lambda.rollout",
        "trl_lambda.rollout.waves",
        "trl_lambda.versions",
    },
    "evaluate": {"trl_lambda.scripts.evaluate"},
    "grpo_lambda": {"trl_lambda.scripts.train"},
    "quickstart": {"quickstart_parts", "trl_lambda", "trl_lambda.report"},
    "quickstart_parts": {
        "trl_lambda",
        "trl_lambda.atomic_write",
        "trl_lambda.evaluation.intervals",
        "trl_lambda.versions",
    },
}
# Privates of TRL's trainer and ours that a recipe touches, and the one file that may.
RECIPE_PRIVATES = {
    "_credit": "benchmarks/speed/step.py",
    "_plan_loss": "benchmarks/speed/step.py",
    "_exit": "benchmarks/learning/runs.py",  # of os: ends a worker whose parent is gone
    "_continuations": "benchmarks/speed/probe.py",
    "_kl_term": "benchmarks/speed/step.py",
    "_packs": "benchmarks/speed/probe.py",
    "_prepare_inputs": "benchmarks/speed/step.py",
    "_step": "benchmarks/speed/step.py",
}


def recipe_named(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


def recipe_room(module: str) -> str:
    """The file or folder of a dotted name below recipes/; in benchmarks one level deeper."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "benchmarks" else 1])


def recipe_imports(path: Path) -> set[str]:
    """Dotted names of all that a recipe imports, names behind `from` included."""
    package = path.relative_to(RECIPES).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def recipe_sources(path: Path) -> set[str]:
    """Where the imports of a recipe come from: modules of the package, and rooms of recipes/."""
    rooms = {room.split(".")[0] for room in RECIPE_ARROWS}
    sources = set()
    for name in recipe_imports(path):
        if name.split(".")[0] == "trl_lambda":
            sources.add(name.rpartition(".")[0])
        elif name.split(".")[0] in rooms:
            sources.add(recipe_room(name))
    return sources


@pytest.mark.parametrize("path", RECIPE_FILES, ids=recipe_named)
def test_recipes_import_one_way_and_what_users_may(path):
    own = recipe_room(".".join(path.relative_to(RECIPES).with_suffix("").parts))
    assert own in RECIPE_ARROWS, (
        f"{path.name} is a new room: say in RECIPE_ARROWS what it may import"
    )
    assert recipe_sources(path) <= RECIPE_ARROWS[own] | {own}
    ours = {name for name in recipe_imports(path) if name.split(".")[0] == "trl_lambda"}
    assert not [name for name in ours if re.search(r"\._[a-z]", name)]


def test_the_arrows_of_the_recipes_run_one_way_and_are_current():
    used = {room: set() for room in RECIPE_ARROWS}
    for path in RECIPE_FILES:
        own = recipe_room(".".join(path.relative_to(RECIPES).with_suffix("").parts))
        used[own] |= recipe_sources(path) - {own}
    assert used == RECIPE_ARROWS
    TopologicalSorter(RECIPE_ARROWS).prepare()  # raises where they run in a circle


def test_recipes_touch_privates_in_one_file_each():
    own, read = set(), {}
    for path in RECIPE_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    own.add(node.attr)
                else:
                    read.setdefault(node.attr, set()).add(recipe_named(path))
    touched = {
        name: files for name, files in read.items() if name not in own - set(RECIPE_PRIVATES)
    }
    assert touched == {name: {file} for name, file in RECIPE_PRIVATES.items()}


def test_recipes_stay_small():
    sizes = {recipe_named(p): len(p.read_text().splitlines()) for p in RECIPE_FILES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert sizes["quickstart.py"] <= 150
    assert max(sizes["grpo_lambda.py"], sizes["evaluate.py"]) <= 15
