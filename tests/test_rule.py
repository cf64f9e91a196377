"""Options into methods: what is unset, what was given, and what means nothing."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trl_lambda import functional
from trl_lambda.methods import METHODS, NEUTRAL, OPTIONS, TRACE_STYLES
from trl_lambda.option_values import value_fault
from trl_lambda.rollout import BranchRule
from trl_lambda.rule import CreditRule, resolve
from trl_lambda.td_errors import TD_ERRORS

README = Path(__file__).parents[1] / "trl_lambda" / "README.md"
AXES = {
    "td_error": (None, *TD_ERRORS),
    "trace_style": (None, "none", "recent", "both"),
    "trace_mode": (None, "advantage", "ratio", "weight"),
    "normalize_trace": (None, True, False),
    "process_set_weighting": (None, True, False),
    "loss_type": (None, "grpo", "dr_grpo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
}
UNSET = "unset"


def table() -> list[tuple[dict, str]]:
    """The documented combinations: ({option: allowed values}, verdict), the first match holds."""
    block = README.read_text().split("<!-- combinations -->")[1]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [name.strip("`") for name in header[: len(AXES)]]
    assert names == list(AXES)
    parsed = []
    for cells in rows:
        chosen = {
            name: {shown(v) for v in AXES[name]} if cell == "any" else set(cell.split(", "))
            for name, cell in zip(names, cells, strict=False)
        }
        chosen |= {
            name: {shown(v) for v in AXES[name]} - {UNSET}
            for name, values in chosen.items()
            if values == {"set"}
        }
        for name, values in chosen.items():
            assert values <= {shown(v) for v in AXES[name]}, f"{name}: {values}"
        parsed.append((chosen, cells[len(AXES)]))
    return parsed


def shown(value) -> str:
    return UNSET if value is None else str(value)


FIRST, REST = list(AXES)[:4], list(AXES)[4:]


@pytest.mark.parametrize(
    "first",
    list(itertools.product(*(AXES[name] for name in FIRST))),
    ids=lambda v: "-".join(map(shown, v)),
)
def test_the_documented_combinations_are_what_is_refused(first):
    rows = table()
    for rest in itertools.product(*(AXES[name] for name in REST)):
        combination = dict(zip([*FIRST, *REST], [*first, *rest], strict=True))
        said = next(
            verdict
            for chosen, verdict in rows
            if all(shown(combination[name]) in values for name, values in chosen.items())
        )
        trl = {"importance_sampling_level": combination.pop("importance_sampling_level")}
        if said == "allowed":
            resolve(combination, trl)
            continue
        option = re.fullmatch(r"refused: `(\w+)`", said).group(1)
        with pytest.raises(ValueError, match=f"^{option}=") as caught:
            resolve(combination, trl)
        assert re.search(r"\b(set|use|leave)\b", str(caught.value)), "the remedy is missing"


def test_the_default_is_the_rule_that_is_built_by_hand():
    assert resolve({}).credit == CreditRule()


def test_the_rule_of_branches_that_is_built_by_hand_has_the_neutral_weights():
    assert BranchRule(None, "spread", "random", 0.5, 2.0, 1).weights == NEUTRAL["branch_weights"]


def test_a_style_is_none_or_one_of_the_kernels():
    assert ("none", *functional.TRACE_STYLES) == TRACE_STYLES


def test_grpo_sets_nothing():
    assert METHODS["grpo"].values == {}
    assert not resolve({"method": "grpo"}).credit.token_level


@pytest.mark.parametrize("name", METHODS)
def test_every_value_of_a_paper_says_where_it_is_from(name):
    for option, (value, source) in METHODS[name].values.items():
        assert option in OPTIONS
        assert value_fault(option, value) is None
        assert source
    if name not in ("default", "grpo"):
        assert {"loss_type", "scale_rewards"} <= set(METHODS[name].values), "it would move with TRL"


def test_presets_of_papers_are_frozen():
    """A change here changes what published runs train; only "default" may move."""
    frozen = {
        name: {option: value for option, (value, _) in preset.values.items()}
        for name, preset in METHODS.items()
        if name != "default"
    }
    assert frozen == {
        "grpo": {},
        "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
        "dapo": {"loss_type": "dapo", "scale_rewards": "group"},
        "grpo_lambda": {
            "trace_style": "both",
            "trace_mode": "ratio",
            "trace_lambda": 0.99,
            "normalize_trace": False,
            "advantage_floor": -0.1,
            "loss_type": "grpo",
            "scale_rewards": "group",
        },
        "lambda_grpo": {
            "process_set_weighting": True,
            "loss_type": "grpo",
            "scale_rewards": "group",
        },
        "tempo": {"td_error": "tree", "loss_type": "grpo", "scale_rewards": "group"},
        "branch": {
            "td_error": "sibling",
            "sibling_shrinkage": 1.0,
            "advantage_floor": -0.1,
            "rollout": "branch",
            "branch_forks": "spread",
            "branch_at": "random",
            "branch_weights": "branches",
            "loss_type": "dapo",
            "scale_rewards": "group",
        },
        "process": {
            "td_error": "process",
            "trace_style": "recent",
            "trace_mode": "advantage",
            "trace_lambda": 1.0,
            "normalize_trace": False,
            "loss_type": "grpo",
            "scale_rewards": "group",
        },
        "probe": {
            "td_error": "probe",
            "trace_style": "recent",
            "trace_mode": "advantage",
            "trace_per": "step",
            "trace_lambda": 0.8,
            "normalize_trace": False,
            "loss_type": "dapo",
            "scale_rewards": "batch",
        },
    }


def test_an_option_overrides_one_thing_of_a_method():
    method = resolve({"method": "grpo_lambda", "trace_lambda": 0.5, "loss_type": "dapo"})
    assert method.credit == CreditRule(
        trace_style="both",
        trace_mode="ratio",
        decay=0.5,
        normalize_trace=False,
        advantage_floor=-0.1,
    )
    assert (method.loss_type, method.scale_rewards) == ("dapo", "group")
    assert dict(method.given) == {"trace_lambda": 0.5, "loss_type": "dapo"}


@pytest.mark.parametrize("td_error", TD_ERRORS)
def test_an_unset_normalisation_follows_the_td_error(td_error):
    rule = resolve({"td_error": td_error}).credit
    assert rule.normalize_trace == (td_error not in ("terminal", "process", "probe"))


# What was refused or taken by its value alone: a value that equals the default was taken.
@pytest.mark.parametrize("floor", [-0.1, -0.2, 0.0])
def test_a_floor_that_would_be_ignored_is_refused_whatever_its_value(floor):
    with pytest.raises(ValueError, match=r"^advantage_floor=.*step rewards; leave it out"):
        resolve({"td_error": "process", "advantage_floor": floor})
    assert resolve({"td_error": "process"}).credit.advantage_floor is None


@pytest.mark.parametrize("td_error", [None, "group", "terminal", "tree", "process", len])
@pytest.mark.parametrize(
    "option",
    [
        {"probe_text": "#### "},
        {"step_ends": "newline"},
        {"probe_calibration": True},
        {"probe_calibration": False},
        {"trace_per": "token"},
        {"trace_per": "step"},
    ],
    ids=str,
)
def test_an_option_of_another_td_error_is_refused_whatever_its_value(option, td_error):
    name = next(iter(option))
    if name == "trace_per":  # an option of traces, of which the default has none
        option = option | {"trace_style": "recent"}
    if name == "trace_per" and td_error == "process":
        assert resolve({"td_error": td_error} | option).credit.trace_per == option[name]
        return
    readers = "'process' or 'probe'" if name == "trace_per" else "'probe'"
    with pytest.raises(ValueError, match=f"^{name}=.*does not read it; .* to {readers}"):
        resolve({"td_error": td_error} | option)
    assert name in resolve({"method": "probe"} | option).values()


def test_the_alpha_of_a_length_follows_what_is_counted():
    for unit, alpha in (("token", 0.05), ("step", 1.0)):
        given = {"method": "process", "trace_lambda": "length", "trace_per": unit}
        assert resolve(given).credit.trace_alpha == alpha
        assert resolve(given | {"trace_alpha": 0.2}).credit.trace_alpha == 0.2


@pytest.mark.parametrize(
    "option",
    [
        {"normalize_trace": True},
        {"normalize_trace": False},
        {"trace_lambda": NEUTRAL["trace_lambda"]},
        {"trace_lambda": 0.5},
        {"trace_mode": "advantage"},
        {"trace_mode": "ratio"},
    ],
    ids=str,
)
@pytest.mark.parametrize("untraced", [{"trace_style": "none"}, {"method": "grpo"}], ids=str)
def test_an_option_of_a_trace_that_is_not_there_is_refused_whatever_its_value(option, untraced):
    with pytest.raises(ValueError, match=f"^{next(iter(option))}=.*nothing for it to act on"):
        resolve(untraced | option)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "gpro"}, r"^method='gpro': it must be one of 'default', 'grpo'"),
        ({"td_error": "gruop"}, r"^td_error='gruop': it must be one of 'group', 'terminal'"),
        ({"td_error": ["group"]}, r"^td_error=\['group'\]: it must be one of"),
        ({"td_error": "no_such_module.f"}, r"^td_error='no_such_module.f': importing"),
        ({"td_error": "math.pie"}, r"^td_error='math.pie': expected a function, found nothing"),
        ({"td_error": "math.pi"}, r"^td_error='math.pi': expected a function, found a float"),
        ({"trace_style": "all"}, r"^trace_style='all': it must be one of 'none', 'recent', 'both'"),
        ({"trace_mode": "loss"}, r"^trace_mode='loss': it must be one of"),
        ({"trace_lambda": 1.01}, r"^trace_lambda=1.01: it must be a number in \[0, 1\]"),
        ({"trace_lambda": float("nan")}, r"^trace_lambda=nan: it must be a number in \[0, 1\]"),
        ({"trace_lambda": "0.9"}, r"^trace_lambda='0.9': it must be a number"),
        ({"normalize_trace": "false"}, r"^normalize_trace='false': it must be True or False"),
        ({"process_set_weighting": 1}, r"^process_set_weighting=1: it must be True or False"),
        ({"advantage_floor": 0.1}, r"^advantage_floor=0.1: it must be a number ≤ 0; -inf is no"),
        ({"advantage_floor": float("nan")}, r"^advantage_floor=nan: it must be a number ≤ 0"),
        ({"trace_gamma": 0.9}, r"^trace_gamma=0.9: only the product γ·λ was ever used"),
        ({"trace_lambda": "long"}, r"^trace_lambda='long': it must be a number in .*, or 'length'"),
        ({"trace_alpha": 0.0}, r"^trace_alpha=0.0: it must be a number > 0"),
        (
            {"trace_style": "recent", "trace_alpha": 0.1},
            r"^trace_alpha=0.1: it belongs to trace_lambda='length'",
        ),
        ({"trace_per": "line"}, r"^trace_per='line': it must be one of 'token', 'step'"),
        (
            {"method": "probe", "step_ends": 0},
            r"^step_ends=0: it must be 'newline', a whole number",
        ),
        ({"method": "probe", "step_ends": "lines"}, r"^step_ends='lines': it must be 'newline'"),
        ({"method": "probe", "probe_text": ""}, r"^probe_text='': it must be a text that is not"),
        ({"method": "probe", "probe_calibration": 1}, r"^probe_calibration=1: it must be True or"),
        (
            {"method": "process", "trace_per": "step", "trace_mode": "ratio"},
            r"^trace_mode='ratio': trace_per='step' traces TD errors of whole steps",
        ),
        (
            {"method": "probe", "advantage_floor": -0.1},
            r"^advantage_floor=-0.1: .* trains on changes of the answer's probability; leave it",
        ),
        ({"trace_decay": 0.9}, r"unknown option 'trace_decay'; there are method, td_error"),
        (
            {"method": "grpo_lambda", "td_error": "tree"},
            r"^trace_mode='ratio' \(of method='grpo_lambda'\): .* only trace_mode='advantage' can",
        ),
    ],
    ids=str,
)
def test_what_is_refused_names_the_option_its_value_and_the_remedy(given, message):
    with pytest.raises(ValueError, match=message):
        resolve(given)


@pytest.mark.parametrize(
    "trl",
    [
        {"importance_sampling_level": "sequence"},
        {"loss_type": "luspo"},
        {"loss_type": "vespo"},
        {"off_policy_mask_threshold": 0.5},
    ],
    ids=str,
)
def test_nothing_set_takes_all_that_trl_takes_and_explicit_choices_are_refused(trl):
    for unset in ({}, {"method": "default"}, {"method": "grpo"}):
        method = resolve(unset, trl)
        assert not method.token_level
        assert method.credit.advantage_floor is None
    for chosen in (
        {"method": "grpo_lambda"},
        {"trace_style": "recent", "advantage_floor": -0.1},
        {"td_error": "terminal"},
    ):
        if trl.get("loss_type") and "method" in chosen:
            continue  # the method has a loss of its own
        with pytest.raises(ValueError, match=f"^{next(iter(trl))}="):
            resolve(chosen, trl)


def test_a_function_by_its_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "credit_of_mine.py").write_text(
        "def halves(batch):\n    return batch.advantage_B[:, None] * batch.mask_BT / 2\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    rule = resolve({"td_error": "credit_of_mine.halves"}).credit
    assert rule.entry.function.__name__ == "halves"
    assert rule.token_level
    assert resolve({"td_error": rule.entry.function}).values()["td_error"] == (
        "credit_of_mine.halves"
    )


def test_one_line_says_what_a_method_changes():
    trl = {"loss_type": "dapo", "scale_rewards": "group"}
    assert resolve({}).describe(trl) == (
        "method='default' changes nothing of TRL's GRPO; TRL's are loss_type='dapo' and "
        "scale_rewards='group'. "
        "Which method to try for what: https://github.com/trl-lambda/trl-lambda#methods."
    )
    earlier = {"trace_style": "recent", "advantage_floor": -0.1}  # what the default once was
    assert resolve(earlier).describe(trl) == (
        "method='default' changes trace_style='recent', normalize_trace=True, "
        "advantage_floor=-0.1; TRL's are loss_type='dapo' and scale_rewards='group'."
    )
    assert resolve({"method": "grpo"}).describe(trl) == (
        "method='grpo' changes nothing of TRL's GRPO; TRL's are loss_type='dapo' and "
        "scale_rewards='group'."
    )
    assert resolve({"method": "dr_grpo"}).describe(trl) == (
        "method='dr_grpo' changes loss_type='dr_grpo', scale_rewards='none'."
    )


def test_the_rule_needs_no_trl():
    script = "import sys, trl_lambda.rule; assert not {'trl', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=README.parents[1])
