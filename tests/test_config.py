import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from transformers import HfArgumentParser
from trl import GRPOConfig

from trl_lambda import LambdaGRPOConfig, methods
from trl_lambda.config import TRL_SETTINGS, own_fields
from trl_lambda.methods import METHODS, NEUTRAL, OPTIONS, RETIRED, TRL_OPTIONS
from trl_lambda.option_values import CHOICES


def config(tmp_path, **settings) -> LambdaGRPOConfig:
    """With nothing set but what is asked for."""
    return tiny.config(LambdaGRPOConfig, tmp_path, **tiny.DEFAULT | settings)


def test_every_option_of_the_method_is_a_field_that_is_unset_by_default(tmp_path):
    made = config(tmp_path)
    assert made.method == "default"
    assert {name: getattr(made, name) for name in OPTIONS} == dict.fromkeys(OPTIONS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_preset(tmp_path, name):
    rule = config(tmp_path, method=name).credit_rule
    values = NEUTRAL | {option: value for option, (value, _) in METHODS[name].values.items()}
    assert (rule.td_error, rule.trace_style) == (values["td_error"], values["trace_style"])
    assert (rule.trace_mode, rule.decay) == (values["trace_mode"], values["trace_lambda"])
    floor = None if values["advantage_floor"] == -math.inf else values["advantage_floor"]
    assert rule.advantage_floor == floor
    assert rule.process_set_weighting == values["process_set_weighting"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace_gamma": 1.0}, r"trace_gamma=1.0: .* leave it out, and use trace_lambda"),
        ({"loss_type": "dapoo"}, r"loss_type='dapoo': it must be one of 'grpo', 'bnpo'"),
        ({"scale_rewards": "row"}, r"scale_rewards='row': it must be one of 'group', 'batch'"),
        ({"multi_objective_aggregation": "sum"}, r"multi_objective_aggregation='sum': it must be"),
        ({"credit_log_steps": 0}, r"credit_log_steps=0: it must be a whole number ≥ 1"),
        ({"credit_log_max_mb": 0}, r"credit_log_max_mb=0: it must be a number of megabytes > 0"),
        (
            {"method": "tempo", "multi_objective_aggregation": "normalize_then_sum"},
            r"multi_objective_aggregation='normalize_then_sum': .* use 'sum_then_normalize'",
        ),
        (
            {"trace_style": "recent", "off_policy_mask_threshold": 0.5},
            r"off_policy_mask_threshold=0.5: .* set it to None",
        ),
        (
            {"method": "grpo_lambda", "top_entropy_quantile": 0.2},
            r"top_entropy_quantile=0.2: .* set it to 1.0",
        ),
        (
            {"method": "dr_grpo", "max_completion_length": None},
            r"max_completion_length=None: loss_type='dr_grpo' divides by it",
        ),
        (
            {"num_generations": 3},
            r"8 completions, which do not divide into groups of num_generations=3",
        ),
    ],
    ids=str,
)
def test_bad_values_are_named_with_the_remedy(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_uneven_batches_are_refused_where_there_are_several_processes(tmp_path, monkeypatch):
    uneven = {"accelerator_config": {"even_batches": False}}
    config(tmp_path, **uneven)
    monkeypatch.setattr(LambdaGRPOConfig, "world_size", 2)
    config(tmp_path)
    with pytest.raises(ValueError, match=r"even_batches=False .* set even_batches to True"):
        config(tmp_path, **uneven)


def test_command_line(tmp_path):
    arguments = (
        f"--output_dir {tmp_path} --bf16 False --use_cpu --method tempo --trace_style both "
        "--trace_lambda 0.9 --normalize_trace false --process_set_weighting false "
        "--advantage_floor=-inf --report_to none"
    )
    (made,) = HfArgumentParser(LambdaGRPOConfig).parse_args_into_dataclasses(arguments.split())
    rule = made.credit_rule
    assert (rule.td_error, rule.trace_style, rule.decay) == ("tree", "both", 0.9)
    assert (rule.normalize_trace, rule.process_set_weighting) == (False, False)
    assert rule.advantage_floor is None


def test_the_help_has_every_method_and_hides_what_is_gone():
    text = HfArgumentParser(LambdaGRPOConfig).format_help()
    for name in METHODS:
        assert f"'{name}'" in text
    for name in RETIRED:
        assert name not in text


def test_every_field_of_ours_has_help():
    for name in own_fields():
        text = LambdaGRPOConfig.__dataclass_fields__[name].metadata["help"]
        assert "efault" in text, name


def test_survives_a_round_trip(tmp_path):
    made = config(tmp_path, td_error="tree", trace_style="recent", trace_lambda=0.5)
    kept = {name: made.to_dict()[name] for name in own_fields()}
    assert kept == {name: getattr(made, name) for name in own_fields()}


@dataclass
class OwnConfig(LambdaGRPOConfig):
    """As users have them."""

    td_error: str | None = "terminal"

    def __post_init__(self):
        super().__post_init__()
        self.seen = self.credit_rule.td_error


def test_a_subclass_may_have_defaults_of_its_own(tmp_path):
    made = tiny.config(OwnConfig, tmp_path, **tiny.DEFAULT)
    assert made.seen == "terminal"
    assert not made.credit_rule.normalize_trace


def test_trl_has_the_settings_that_a_method_reads():
    assert set(TRL_SETTINGS) <= set(GRPOConfig.__dataclass_fields__)


PACKAGE = Path(__file__).parents[1] / "trl_lambda"
GUIDE = PACKAGE.parent / ".github" / "CONTRIBUTING.md"


@pytest.mark.parametrize("option", OPTIONS)
def test_one_grep_finds_the_default_of_an_option_once(option):
    """The grep of the contributing guide."""
    pattern = re.search(
        r"^grep -rnE '([^']+)' trl_lambda --include='\*\.py'$", GUIDE.read_text(), re.M
    )[1]
    line = re.compile(pattern.replace("trace_lambda", option))
    found = [
        (path.relative_to(PACKAGE).as_posix(), text.strip())
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in path.read_text().splitlines()
        if line.search(text)
    ]
    ((file, text),) = found
    assert file == "methods.py"
    said = text.removeprefix(f'"{option}":').strip(" ,")
    assert eval(said, vars(methods)) == NEUTRAL[option]


def literals_of(option: str, tree: ast.AST) -> Iterator[ast.expr]:
    """What is written as an option's value: in a dict, as a field's or argument's default, and as
    what `get` and `getattr` give in its place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == option
            )
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == option:
            yield from [node.value] if node.value else []
        elif isinstance(node, ast.arguments):
            given = [*node.posonlyargs, *node.args][-len(node.defaults) or None :]
            pairs = [*zip(given, node.defaults, strict=False)]
            pairs += zip(node.kwonlyargs, node.kw_defaults, strict=True)
            yield from (value for arg, value in pairs if arg.arg == option and value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("get", "getattr")):
            names = [i for i, arg in enumerate(node.args) if getattr(arg, "value", 0) == option]
            yield from (arg for i in names for arg in node.args[i + 1 :])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_default_is_written_twice(path):
    """Whoever looks for a default of the method finds it in `methods.py`, and nowhere else."""
    if path.name == "methods.py" and path.parent == PACKAGE:
        return
    tree = ast.parse(path.read_text())
    for option in set(OPTIONS) - {*TRL_OPTIONS}:
        for node in literals_of(option, tree):
            written = not isinstance(node, ast.Constant) or node.value is None
            assert written, f"{option}: {ast.unparse(node)} in line {node.lineno}"


def test_fields_of_the_method_are_unset_by_default():
    for option in OPTIONS:
        assert LambdaGRPOConfig.__dataclass_fields__[option].default is None


def test_the_help_says_the_defaults_that_are():
    """Where a help text has a default behind "as the method has it", it is the option's."""
    said = {}
    for option in OPTIONS:
        text = LambdaGRPOConfig.__dataclass_fields__[option].metadata["help"]
        if found := re.search(r"Default None: as the method has it, ([\d.]+)\.", text):
            said[option] = float(found[1])
    assert len(said) >= 4
    assert said == {option: NEUTRAL[option] for option in said}


@pytest.mark.parametrize("option", sorted({*CHOICES} - {"method", "loss_type", "scale_rewards"}))
def test_the_help_explains_every_choice(option):
    text = LambdaGRPOConfig.__dataclass_fields__[option].metadata["help"]
    for choice in CHOICES[option]:
        assert f"'{choice}'" in text, choice


@pytest.mark.parametrize("td_error", ["group", "tree", "process"])
def test_a_column_of_answers_is_for_the_probe_alone(tmp_path, td_error):
    assert config(tmp_path, method="probe", answer_column="gold").answer_column == "gold"
    message = rf"^answer_column='gold': td_error='{td_error}' does not read it; leave it out"
    with pytest.raises(ValueError, match=message):
        config(tmp_path, td_error=td_error, answer_column="gold")
    with pytest.raises(ValueError, match=r"^answer_column='': it must be the name of a column"):
        config(tmp_path, method="probe", answer_column="")


def test_what_the_command_line_gives_as_text_may_be_a_number(tmp_path):
    arguments = (
        f"--output_dir {tmp_path} --bf16 False --use_cpu --method probe --trace_lambda 0.5 "
        "--step_ends 32 --probe_calibration false --probe_text auto --report_to none"
    )
    (made,) = HfArgumentParser(LambdaGRPOConfig).parse_args_into_dataclasses(arguments.split())
    rule = made.credit_rule
    assert (rule.decay, rule.step_ends, rule.probe_calibration) == (0.5, 32, False)
    arguments = arguments.replace("0.5", "length").replace("32", "newline")
    (made,) = HfArgumentParser(LambdaGRPOConfig).parse_args_into_dataclasses(arguments.split())
    assert (made.credit_rule.decay, made.credit_rule.step_ends) == ("length", "newline")
