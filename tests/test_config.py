import itertools
import re
from pathlib import Path

import pytest
import tiny
from transformers import HfArgumentParser
from trl import GRPOConfig

from trl_lambda import LambdaGRPOConfig
from trl_lambda.config import method_fields, own_fields
from trl_lambda.credit import TD_ERRORS, TRACE_MODES, TRACE_STYLES

README = Path(__file__).parents[1] / "README.md"
AXES = {
    "td_error": TD_ERRORS,
    "trace_style": TRACE_STYLES,
    "trace_mode": TRACE_MODES,
    "normalize_trace": (True, False),
    "process_set_weighting": (True, False),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
}


def table() -> list[tuple[dict, str]]:
    """The README's table of combinations: ({field: allowed values}, verdict), first match wins."""
    text = README.read_text()
    block = text.split("<!-- combinations -->")[1]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [name.strip("`") for name in header[: len(AXES)]]
    assert names == list(AXES)
    parsed = []
    for cells in rows:
        chosen = {
            name: {str(v) for v in AXES[name]} if cell == "any" else set(cell.split(", "))
            for name, cell in zip(names, cells, strict=False)
        }
        for name, values in chosen.items():
            assert values <= {str(v) for v in AXES[name]}, f"{name}: {values}"
        parsed.append((chosen, cells[len(AXES)]))
    return parsed


TABLE = table()


def verdict(combination: dict) -> str:
    return next(
        verdict
        for chosen, verdict in TABLE
        if all(str(combination[name]) in values for name, values in chosen.items())
    )


FIRST, REST = list(AXES)[:4], list(AXES)[4:]


@pytest.mark.parametrize(
    "first",
    list(itertools.product(*(AXES[name] for name in FIRST))),
    ids=lambda v: "-".join(map(str, v)),
)
def test_the_table_of_combinations_is_what_the_config_does(tmp_path, first):
    for rest in itertools.product(*(AXES[name] for name in REST)):
        combination = dict(zip([*FIRST, *REST], [*first, *rest], strict=True))
        said = verdict(combination)
        if said == "allowed":
            tiny.config(LambdaGRPOConfig, tmp_path, **combination)
            continue
        field = re.fullmatch(r"refused: `(\w+)`", said).group(1)
        with pytest.raises(ValueError, match=f"^{field}={combination[field]!r}: ") as caught:
            tiny.config(LambdaGRPOConfig, tmp_path, **combination)
        assert re.search(r"\b(set|use|leave)\b", str(caught.value)), "the remedy is missing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"td_error": "gruop"}, r"td_error='gruop': it must be one of 'group', 'terminal'"),
        ({"trace_style": "all"}, r"trace_style='all': it must be one of 'none', 'recent', 'both'"),
        ({"trace_mode": "loss"}, r"trace_mode='loss': it must be one of"),
        ({"trace_lambda": 1.01}, r"trace_lambda=1.01: it must be a number in \[0, 1\]"),
        ({"trace_lambda": float("nan")}, r"trace_lambda=nan: it must be a number in \[0, 1\]"),
        ({"trace_gamma": -0.1}, r"trace_gamma=-0.1: it must be a number in \[0, 1\]"),
        ({"trace_gamma": "0.9"}, r"trace_gamma='0.9': it must be a number"),
        ({"normalize_trace": "false"}, r"normalize_trace='false': it must be True or False"),
        ({"process_set_weighting": None}, r"process_set_weighting=None: it must be True or False"),
        ({"loss_type": "dapoo"}, r"loss_type='dapoo': it must be one of 'grpo', 'bnpo'"),
        ({"scale_rewards": "row"}, r"scale_rewards='row': it must be one of 'group', 'batch'"),
        ({"multi_objective_aggregation": "sum"}, r"multi_objective_aggregation='sum': it must be"),
        ({"advantage_floor": 0.1}, r"advantage_floor=0.1: it must be a finite number ≤ 0"),
        ({"advantage_floor": float("-inf")}, r"advantage_floor=-inf: it must be a finite"),
        ({"trace_style": "none", "trace_lambda": 0.9}, r"trace_lambda=0.9: .* no trace"),
        ({"trace_style": "none", "trace_gamma": 0.9}, r"trace_gamma=0.9: .* no trace"),
        ({"credit_log_steps": 0}, r"credit_log_steps=0: it must be a whole number ≥ 1"),
        ({"credit_log_max_mb": 0}, r"credit_log_max_mb=0: it must be a number of megabytes > 0"),
        ({"td_error": "process", "advantage_floor": -0.2}, r"advantage_floor=-0.2: it bounds"),
        (
            {"td_error": "tree", "multi_objective_aggregation": "normalize_then_sum"},
            r"multi_objective_aggregation='normalize_then_sum': .* use 'sum_then_normalize'",
        ),
        ({"off_policy_mask_threshold": 0.5}, r"off_policy_mask_threshold=0.5: .* set it to None"),
        (
            {"trace_mode": "ratio", "top_entropy_quantile": 0.2},
            r"top_entropy_quantile=0.2: .* set it to 1.0",
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
        tiny.config(LambdaGRPOConfig, tmp_path, **settings)


def test_a_plain_config_that_does_not_fit_our_defaults_is_refused(tmp_path):
    config = tiny.config(GRPOConfig, tmp_path, importance_sampling_level="sequence")
    with pytest.raises(ValueError, match="importance_sampling_level='sequence'"):
        LambdaGRPOConfig.from_grpo_config(config)


def test_uneven_batches_are_refused_where_there_are_several_processes(tmp_path, monkeypatch):
    uneven = {"accelerator_config": {"even_batches": False}}
    tiny.config(LambdaGRPOConfig, tmp_path, **uneven)
    monkeypatch.setattr(LambdaGRPOConfig, "world_size", 2)
    tiny.config(LambdaGRPOConfig, tmp_path)
    with pytest.raises(ValueError, match=r"even_batches=False .* set even_batches to True"):
        tiny.config(LambdaGRPOConfig, tmp_path, **uneven)


def test_defaults(tmp_path):
    config = LambdaGRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert {
        name: getattr(config, name) for name in [*method_fields(), "loss_type", "scale_rewards"]
    } == {
        "td_error": "group",
        "trace_style": "recent",
        "trace_mode": "advantage",
        "trace_lambda": 0.99,
        "trace_gamma": 1.0,
        "normalize_trace": True,
        "advantage_floor": -0.1,
        "process_set_weighting": False,
        "loss_type": "grpo",
        "scale_rewards": "group",
    }


def test_process_supervision_has_no_floor(tmp_path):
    """Also not where nothing is said of it, and the default is one."""
    config = LambdaGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, td_error="process")
    assert config.credit_rule.advantage_floor is None
    config = LambdaGRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert config.credit_rule.advantage_floor == -0.1


def test_command_line(tmp_path):
    arguments = (
        f"--output_dir {tmp_path} --bf16 False --use_cpu --td_error tree --trace_style both "
        "--trace_lambda 0.9 --normalize_trace false --process_set_weighting false "
        "--advantage_floor -0.1 --report_to none"
    )
    (config,) = HfArgumentParser(LambdaGRPOConfig).parse_args_into_dataclasses(arguments.split())
    rule = config.credit_rule
    assert (rule.td_error, rule.trace_style, rule.decay) == ("tree", "both", 0.9)
    assert (rule.normalize_trace, rule.process_set_weighting) == (False, False)
    assert rule.advantage_floor == -0.1


def test_every_field_of_ours_has_help():
    for name in own_fields():
        text = LambdaGRPOConfig.__dataclass_fields__[name].metadata["help"]
        assert "efault" in text, name


def test_survives_a_round_trip(tmp_path):
    config = tiny.config(LambdaGRPOConfig, tmp_path, td_error="tree", trace_lambda=0.5)
    kept = {name: config.to_dict()[name] for name in own_fields()}
    assert kept == {name: getattr(config, name) for name in own_fields()}
