"""Every shipped YAML file loads, leaves no option of the method to chance, and means its paper."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from trl_lambda import LambdaGRPOConfig
from trl_lambda.config import method_fields, own_fields

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))
LOSS = ("loss_type", "scale_rewards", "beta", "num_iterations", "epsilon")
TRACE = ("trace_mode", "trace_lambda", "trace_gamma", "normalize_trace")


@pytest.fixture(scope="module")
def parser_of():
    """`make_parser` of the recipe, whose folder is on the path as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        yield importlib.import_module("grpo_lambda").make_parser


@pytest.fixture
def load(parser_of, tmp_path):
    """Parses a file on whatever device there is: bf16 is a matter of the GPU it is meant for."""

    def parse(path: Path):
        arguments = ["--config", str(path), "--use_cpu", "--output_dir", str(tmp_path)]
        return parser_of().parse_args_and_config(arguments)

    return parse


def test_there_is_one_file_per_paper_and_ours():
    names = {path.stem for path in CONFIGS}
    assert names == {"grpo", "dr_grpo", "grpo_lambda", "lambda_grpo", "ours"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_loads_with_every_value_it_gives(load, path):
    task, script, config, model, _ = load(path)
    assert isinstance(config, LambdaGRPOConfig)
    parts = [task, script, config, model]
    for name, value in yaml.safe_load(path.read_text()).items():
        if name in ("output_dir", "report_to"):  # ours; transformers makes "none" an empty list
            continue
        (holder,) = [part for part in parts if hasattr(part, name)][:1]
        loaded = getattr(holder, name)
        assert getattr(loaded, "value", loaded) in (value, [value]), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_leaves_no_option_of_the_method_to_the_defaults(path):
    """The package's defaults may move; what a file reproduces may not."""
    given = yaml.safe_load(path.read_text())
    needed = {*method_fields(), *LOSS}
    if given["trace_style"] == "none":
        needed -= set(TRACE)  # refused, or at their defaults, where there is no trace
    assert needed <= given.keys()


def test_ours_is_the_defaults():
    given = yaml.safe_load((RECIPES / "configs" / "ours.yaml").read_text())
    defaults = LambdaGRPOConfig.__dataclass_fields__
    for name in (*method_fields(), *LOSS):
        assert given[name] == defaults[name].default, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", {"beta": 0.04, "num_generations": 64, "scale_rewards": "group"}),
        ("dr_grpo", {"loss_type": "dr_grpo", "scale_rewards": "none", "num_generations": 8}),
        (
            "grpo_lambda",
            {
                "trace_mode": "ratio",
                "trace_style": "both",
                "trace_lambda": 0.99,
                "normalize_trace": False,
                "advantage_floor": -0.1,
                "process_set_weighting": False,
            },
        ),
        (
            "lambda_grpo",
            {
                "process_set_weighting": True,
                "trace_style": "none",
                "num_generations": 6,
                "temperature": 0.75,
            },
        ),
    ],
)
def test_has_what_its_paper_says(load, name, expected):
    config = load(RECIPES / "configs" / f"{name}.yaml")[2]
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "lambda_grpo"])
def test_plain_methods_have_no_trace(load, name):
    rule = load(RECIPES / "configs" / f"{name}.yaml")[2].credit_rule
    assert not rule.traced
    assert rule.process_set_weighting == (name == "lambda_grpo")


def test_unknown_key_is_an_error(load, tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text((RECIPES / "configs" / "ours.yaml").read_text() + "trace_lamda: 0.9\n")
    with pytest.raises(ValueError, match="trace_lamda"):
        load(path)


def test_help_renders_and_names_our_options(parser_of):
    text = parser_of().format_help()
    for name in (*own_fields(), "reward_funcs", "prompt_column"):
        assert f"--{name}" in text
