"""What the trainer hands to TRL's loss, in the situations that TRL allows."""

import functools
import inspect
import math
from dataclasses import dataclass

import numpy as np
import oracles
import pandas as pd
import pytest
import tiny
import torch
import worked_groups
from datasets import Dataset, IterableDataset
from strategies import padded
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.rule import CreditRule

EOS = tiny.EOS
COMPLETIONS, REWARDS = worked_groups.TWO_GROUPS, worked_groups.TWO_GROUPS_REWARDS
GROUPS = [0] * 4 + [1] * 4


def scripted_reward(rewards):
    """A reward function that answers by the row of the batch."""

    def by_row(completions, **columns):
        return [rewards[i % len(rewards)] for i in range(len(completions))]

    return by_row


def build(tmp_path, *, completions=COMPLETIONS, rewards=REWARDS, extra=None, settings=None, **kw):
    return tiny.trainer(
        tmp_path,
        reward_funcs=kw.pop("reward_funcs", None) or scripted_reward(rewards),
        rollout_func=tiny.scripted(completions, **(extra or {})),
        settings=settings,
        **kw,
    )


def score(trainer, count=8, **columns):
    """One generated and scored batch of whole groups, before TRL shuffles it."""
    trainer.model.train()
    size = trainer.num_generations
    rows = [
        {"prompt": f"{i // size}+1=", **{name: values[i] for name, values in columns.items()}}
        for i in range(count)
    ]
    return trainer._generate_and_score_completions(rows)


def expected(rule, rewards=REWARDS, mask=None, scale="none", steps=None, **options):
    tokens, lengths = padded(COMPLETIONS)
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long() if mask is None else mask
    return oracles.credit(rule, COMPLETIONS, GROUPS, rewards, mask, steps, scale, **options)[0]


def assert_credit(output, want):
    torch.testing.assert_close(output["advantages"].double(), want, rtol=1e-5, atol=1e-6)


SETTINGS = [
    {},
    {"trace_style": "both", "normalize_trace": False, "trace_lambda": 0.9},
    {"trace_mode": "weight", "trace_lambda": 0.5},
    {"trace_mode": "ratio", "process_set_weighting": False},
    {"td_error": "terminal"},
    {"td_error": "tree", "trace_lambda": 0.9},
    {"td_error": "tree", "trace_style": "none"},
    {"advantage_floor": -0.1},
]


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_credit_equals_the_definition(tmp_path, settings, scale):
    trainer = build(tmp_path, settings=settings | {"scale_rewards": scale})
    want = expected(trainer.args.credit_rule, scale=scale)
    assert_credit(score(trainer), want)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trains_and_evaluates(tmp_path, settings):
    settings = settings | {
        "beta": 0.04,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "num_iterations": 2,
        "per_device_eval_batch_size": 6,
        "num_generations_eval": 3,
    }
    trainer = tiny.trainer(tmp_path, settings=settings, eval_dataset=tiny.prompts(4))
    start = tiny.parameters(trainer).clone()
    trainer.train()
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated
    assert all(math.isfinite(entry["eval_loss"]) for entry in evaluated)
    assert "eval_process_sets/size" in evaluated[0]
    assert torch.isfinite(tiny.parameters(trainer)).all()
    assert not torch.equal(tiny.parameters(trainer), start)


def test_groups_of_evaluation_have_their_own_size(tmp_path):
    trainer = build(tmp_path, settings={"num_generations_eval": 2, "td_error": "tree"})
    trainer.model.eval()
    rows = [{"prompt": f"{i // 2}+1="} for i in range(8)]
    output = trainer._generate_and_score_completions(rows)
    rule, mask = trainer.args.credit_rule, output["completion_mask"]
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    want = oracles.credit(rule, COMPLETIONS, groups, REWARDS, mask, None, "none")[0]
    assert_credit(output, want)


def test_environment_tokens_are_state_but_not_policy(tmp_path):
    env_mask = [[1] * len(row) for row in COMPLETIONS]
    env_mask[0][1] = env_mask[1][1] = env_mask[7][2] = 0
    mask, _ = padded(env_mask)
    for settings in SETTINGS:
        trainer = build(tmp_path, extra={"env_mask": env_mask}, settings=settings)
        output = score(trainer)
        assert_credit(output, expected(trainer.args.credit_rule, mask=mask))


def test_truncated_completions_leave_the_counts_and_every_value_but_the_root(tmp_path):
    completions = [row[:-1] if i in (0, 4) else row for i, row in enumerate(COMPLETIONS)]
    for settings in ({}, {"td_error": "tree"}):
        trainer = build(
            tmp_path,
            completions=completions,
            settings=settings | {"mask_truncated_completions": True},
        )
        output = score(trainer)
        counted = [[] if i in (0, 4) else row for i, row in enumerate(completions)]
        mask = output["completion_mask"]
        assert not mask[0].any()
        rule = trainer.args.credit_rule
        want = oracles.credit(rule, counted, GROUPS, REWARDS, mask, None, "none")[0]
        assert_credit(output, want)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_without_reward_learns_nothing_and_is_no_baseline(tmp_path, settings):
    rewards = [None, *REWARDS[1:]]
    trainer = build(tmp_path, rewards=rewards, settings=settings)
    output = score(trainer)
    known = [math.nan, *REWARDS[1:]]
    assert_credit(output, expected(trainer.args.credit_rule, rewards=known))
    assert not output["advantages"][0].any()


def test_zero_variance_groups_teach_nothing(tmp_path):
    for settings in SETTINGS:
        trainer = build(tmp_path, rewards=[0.5], settings=settings)
        assert not score(trainer)["advantages"].any()
        assert trainer._metrics["train"]["groups/zero_variance"] == [1.0]


def test_weighted_reward_functions(tmp_path):
    other = [0.0, 3.0, 1.0, None, 2.0, 0.0, 1.0, 0.0]
    trainer = build(
        tmp_path,
        reward_funcs=[scripted_reward(REWARDS), scripted_reward(other)],
        settings={"td_error": "tree", "reward_weights": [1.0, 0.5]},
    )
    rewards = [a + 0.5 * (b or 0.0) for a, b in zip(REWARDS, other, strict=True)]
    assert_credit(score(trainer), expected(trainer.args.credit_rule, rewards=rewards))


STEPS = [[(1, 1.0), (3, 0.0)], [(0, 2.0)], None, [(2, 1.0)], [], [(1, 1.0)], [(1, 0.0)], [(4, 3.0)]]


def step_rewards(completions, completion_ids, gold, **columns):
    assert len(completions) == len(completion_ids) == len(gold)
    return STEPS


@pytest.mark.parametrize("weights", [None, [1.0]])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_process_rewards(tmp_path, scale, weights):
    settings = {"td_error": "process", "scale_rewards": scale, "reward_weights": weights}
    trainer = build(tmp_path, settings=settings, process_reward_funcs=step_rewards)
    rule = trainer.args.credit_rule
    want = expected(rule, scale=scale, steps=STEPS, outcome=weights is not None)
    assert_credit(score(trainer, gold=list("abcdefgh")), want)
    assert trainer._metrics["train"]["reward"] == [pytest.approx(sum(REWARDS) / 8)]


def test_process_reward_functions_are_normalised_by_themselves(tmp_path):
    def hundredfold(**columns):
        return [[(end, 100 * r) for end, r in own or []] for own in STEPS]

    settings = {"td_error": "process", "scale_rewards": "group"}
    one = build(tmp_path, settings=settings, process_reward_funcs=[step_rewards])
    two = build(tmp_path, settings=settings, process_reward_funcs=[step_rewards, hundredfold])
    columns = {"gold": list("abcdefgh")}
    torch.testing.assert_close(
        score(two, **columns)["advantages"],
        2 * score(one, **columns)["advantages"],
        rtol=1e-3,  # 1e-4 is added to a deviation a hundred times larger
        atol=1e-5,
    )


def test_different_prompts_share_no_prefix(tmp_path):
    """An environment may append to the prompt of a group member."""
    trainer = build(tmp_path, completions=[[5, 6, EOS]] * 4)
    inner = trainer.rollout_func

    def rollout(prompts, trainer):
        output = inner(prompts, trainer)
        for i in (1, 2, 5, 6):
            output["prompt_ids"][i] = [*output["prompt_ids"][i], 9]
        return output

    trainer.rollout_func = rollout
    score(trainer)
    assert trainer._metrics["train"]["process_sets/size"] == [2.0]


def test_completions_table_shows_what_was_trained_on(tmp_path):
    trainer = build(tmp_path, settings={"log_completions": True})
    output = score(trainer)
    tokens = output["completion_mask"].sum(1)
    mean_credit = output["advantages"].sum(1) / tokens
    logs = trainer._logs
    assert list(logs["advantages"]) == pytest.approx(mean_credit.tolist())
    group_mean = [sum(REWARDS[:4]) / 4] * 4 + [sum(REWARDS[4:]) / 4] * 4
    group_advantage = [r - m for r, m in zip(REWARDS, group_mean, strict=True)]
    assert list(logs["extra"]["group_advantage"]) == pytest.approx(group_advantage)
    weights = [sum(1 / n for n in row) / len(row) for row in oracles.set_sizes(COMPLETIONS, GROUPS)]
    assert list(logs["extra"]["process_set_weight"]) == pytest.approx(weights)
    assert len(logs["prompt"]) == len(logs["advantages"]) == 8


def test_completions_table_is_written(tmp_path):
    trainer = build(tmp_path, settings={"log_completions": True, "max_steps": 1})
    trainer.train()
    table = pd.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
    assert {"advantage", "group_advantage", "process_set_weight"} <= set(table.columns)


def test_logged_metrics(tmp_path):
    trainer = build(tmp_path)
    score(trainer)
    metrics = trainer._metrics["train"]
    sizes = oracles.set_sizes(COMPLETIONS, GROUPS)
    flat = [n for row in sizes for n in row]
    assert metrics["process_sets/size"] == [pytest.approx(sum(flat) / len(flat))]
    depths = [len({n for n in row if 2 <= n <= 3}) for row in sizes]
    assert metrics["process_sets/path_depth"] == [pytest.approx(sum(depths) / 8)]
    shares = [sum(n >= 2 for n in row) / len(row) for row in sizes]
    assert metrics["process_sets/intermediate_proportion"] == [pytest.approx(sum(shares) / 8)]
    assert metrics["process_sets/trivial_groups"] == [0.0]
    assert metrics["groups/zero_variance"] == [0.0]
    first = []
    for n in map(len, COMPLETIONS):
        ones = torch.ones(1, n)
        first.append(oracles.transposed(ones, ones, 0.99, "recent", True)[0, 0].item())
    assert metrics["trace/gain_first_tenth"] == [pytest.approx(sum(first) / 8)]


def test_ratio_mode_logs_the_trace(tmp_path):
    settings = {"trace_mode": "ratio", "num_iterations": 2, "max_steps": 2, "beta": 0.04}
    trainer = build(tmp_path, settings=settings)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["trace/z_abs_max"] == pytest.approx(0.0, abs=1e-5)
    assert second["trace/z_abs_max"] > 0.01
    assert second["trace/z_abs_max"] >= second["trace/z_abs_mean"] > 0
    assert 0 < second["trace/ratio_clipped"] <= 1
    assert second["trace/z_clamped"] == 0
    assert second["kl"] > 0


def test_each_side_of_the_clip_range_has_its_own_epsilon(tmp_path, monkeypatch):
    """In the metric of the traced ratio, and in the credit log."""
    settings = {"trace_mode": "ratio", "epsilon": 0.1, "epsilon_high": 0.5, "credit_log_steps": 1}
    trainer = build(tmp_path, settings=settings)
    assert trainer._ratio_rule.limits == pytest.approx((0.9, 1.5))
    ratios = torch.tensor([0.85, 0.95, 1.4, 1.6])
    clipped = trainer._observer.recorder.clipped
    assert clipped(ratios, torch.full((4,), -1.0)).tolist() == [True, False, False, False]
    assert clipped(ratios, torch.full((4,), 1.0)).tolist() == [False, False, False, True]
    mask = torch.ones(1, 4)
    z = torch.tensor([[0.85, 0.95, 1.4, 1.6]]).log()  # below, inside, inside, above
    trainer.model.train()
    trainer._observer.observe_ratio(z, mask)
    assert trainer._metrics["train"]["trace/ratio_clipped"] == [0.5]


def test_an_evaluation_is_not_recorded(tmp_path):
    settings = {"credit_log_steps": 1, "num_generations_eval": 4}
    trainer = build(tmp_path, settings=settings)
    trainer.model.eval()
    output = trainer._generate_and_score_completions([{"prompt": "1+1="} for _ in range(8)])
    assert "credit_row" not in output
    assert "credit_row" in score(trainer)


def test_a_maximum_that_is_unknown_counts_as_none(tmp_path):
    trainer = build(tmp_path)
    trainer.model.train()
    for value in (math.nan, 2.0, math.nan, 1.0):
        trainer._log_largest("trace/z_abs_max", value)
    assert trainer._metrics["train"]["trace/z_abs_max"] == [2.0]


def test_the_maximum_over_steps_is_a_maximum(tmp_path):
    """Also where a micro-batch has no policy token, and where several steps share a log."""
    settings = {"trace_mode": "ratio", "num_iterations": 4, "max_steps": 4}
    each = build(tmp_path / "each", settings=settings)
    all_at_once = build(tmp_path / "all", settings=settings | {"logging_steps": 4})
    for trainer in (each, all_at_once):
        trainer.train()
    singles = [entry["trace/z_abs_max"] for entry in each.state.log_history[:4]]
    assert all_at_once.state.log_history[0]["trace/z_abs_max"] == max(singles)


@pytest.mark.parametrize("returned", [None, [], "text"])
def test_a_rollout_that_is_no_dict_is_refused_by_name(tmp_path, returned):
    trainer = tiny.trainer(tmp_path, rollout_func=lambda prompts, trainer: returned)
    with pytest.raises(TypeError, match=f"rollout_func returned {type(returned).__name__}; exp"):
        trainer.train()


def test_an_empty_completion_is_refused_by_name(tmp_path):
    trainer = build(tmp_path, completions=[*COMPLETIONS[:5], [], *COMPLETIONS[6:]])
    with pytest.raises(ValueError, match="empty completion for row 5 of 8"):
        score(trainer)


@pytest.mark.parametrize("reward", [math.inf, -math.inf])
def test_an_infinite_reward_is_refused_by_name(tmp_path, reward):
    trainer = build(tmp_path, rewards=[*REWARDS[:7], reward])
    with pytest.raises(ValueError, match=rf"'by_row' returned {reward} for completion 7"):
        score(trainer)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([[(4, 1.0)]] + [None] * 7, r"'bad': completion 0 has 4 tokens, .* got 4"),
        (
            [[(1.5, 1.0)]] + [None] * 7,
            r"'bad' returned \[\(1.5, 1.0\)\] for completion 0; expected",
        ),
        ([[(True, 1.0)]] + [None] * 7, r"'bad' returned \[\(True, 1.0\)\] for completion 0"),
        ([[(0, 1e39)]] + [None] * 7, r"'bad': the step of completion 0 .* reward inf"),
        (None, r"'bad' returned NoneType; expected one list"),
        ([[3]] + [None] * 7, r"'bad' returned \[3\] for completion 0; expected a list of"),
        ([None] * 7, r"'bad' returned 7 entries for 8 completions"),
        ([None] * 7 + [[(0, math.inf)]], r"'bad': the step of completion 7 .* reward inf"),
    ],
)
def test_bad_steps_are_refused_by_name(tmp_path, steps, message):
    def bad(**columns):
        return steps

    trainer = build(tmp_path, settings={"td_error": "process"}, process_reward_funcs=bad)
    with pytest.raises(ValueError, match=message):
        score(trainer)


def test_steps_may_be_any_iterable_of_numbers(tmp_path):
    def generated(**columns):
        return (
            None if own is None else ((np.int64(end), torch.tensor(r)) for end, r in own)
            for own in STEPS
        )

    settings = {"td_error": "process"}
    trainer = build(tmp_path, settings=settings, process_reward_funcs=generated)
    want = expected(trainer.args.credit_rule, steps=STEPS, outcome=False)
    assert_credit(score(trainer), want)


def test_process_needs_its_functions_and_they_need_it(tmp_path):
    with pytest.raises(ValueError, match="td_error='process' needs process_reward_funcs"):
        tiny.trainer(tmp_path, settings={"td_error": "process"})
    with pytest.raises(ValueError, match="td_error='group' does not read them"):
        tiny.trainer(tmp_path, process_reward_funcs=[step_rewards])


def test_process_reward_funcs_must_be_plain_callables(tmp_path):
    async def later(**columns):
        return STEPS

    for wrong, message in ((["x"], "expected callables, got 'x'"), (later, "'later' is a corout")):
        with pytest.raises(TypeError, match=message):
            tiny.trainer(tmp_path, settings={"td_error": "process"}, process_reward_funcs=wrong)


def test_process_reward_functions_may_log(tmp_path):
    def logging(log_extra, log_metric, trainer_state, **columns):
        log_extra("checked", ["yes"] * 8)
        log_metric("steps_seen", 3.0)
        return STEPS

    trainer = build(tmp_path, settings={"td_error": "process"}, process_reward_funcs=logging)
    score(trainer)
    assert list(trainer._logs["extra"]["checked"]) == ["yes"] * 8
    assert trainer._metrics["train"]["steps_seen"] == [3.0]


@pytest.mark.parametrize("td_error", ["terminal", "process"])
def test_credit_that_all_but_vanishes_is_warned_about(tmp_path, caplog, td_error):
    process = step_rewards if td_error == "process" else None
    for normalize, expected_lines in ((True, 1), (False, 0)):
        caplog.clear()
        settings = {"td_error": td_error, "normalize_trace": normalize}
        build(tmp_path, settings=settings, process_reward_funcs=process)
        lines = [r for r in caplog.records if "normalize_trace=True divides" in r.getMessage()]
        assert len(lines) == expected_lines


def test_a_config_changed_after_it_was_built_is_checked_again(tmp_path):
    args = tiny.config(LambdaGRPOConfig, tmp_path)
    args.loss_type = "luspo"
    with pytest.raises(ValueError, match="loss_type='luspo'"):
        LambdaGRPOTrainer(tiny.model(), tiny.letter_reward, args, train_dataset=tiny.prompts())


def test_a_floor_alone_keeps_one_advantage_per_completion(tmp_path):
    trainer = build(tmp_path, settings=tiny.NEUTRAL | {"advantage_floor": -0.1})
    output = score(trainer)
    group_mean = [sum(REWARDS[:4]) / 4] * 4 + [sum(REWARDS[4:]) / 4] * 4
    want = [max(r - m, -0.1) for r, m in zip(REWARDS, group_mean, strict=True)]
    assert output["advantages"].tolist() == pytest.approx(want)
    assert list(trainer._logs["advantages"]) == pytest.approx(want)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_one_batch_trains_like_its_micro_batches(tmp_path, settings, loss_type):
    settings = settings | {"loss_type": loss_type, "beta": 0.04, "max_steps": 1}
    whole = build(tmp_path / "whole", settings=settings | {"optim": "sgd"})
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "optim": "sgd"}
    split = build(tmp_path / "split", settings=settings | parts)
    for trainer in (whole, split):
        trainer.train()
    torch.testing.assert_close(tiny.parameters(split), tiny.parameters(whole), rtol=0, atol=1e-7)


def test_padding_to_a_multiple_changes_nothing(tmp_path):
    settings = {"trace_mode": "ratio", "trace_style": "both", "beta": 0.04, "num_iterations": 2}
    settings |= {"optim": "sgd"}  # Adam blows a rounding error up to a whole step
    plain = build(tmp_path / "plain", settings=settings)
    wide = build(tmp_path / "wide", settings=settings | {"pad_to_multiple_of": 16})
    for trainer in (plain, wide):
        trainer.train()
    torch.testing.assert_close(tiny.parameters(wide), tiny.parameters(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_evaluation_with_single_completions(tmp_path, settings):
    trainer = build(tmp_path, settings=settings | {"num_generations_eval": 1})
    trainer.model.eval()
    output = trainer._generate_and_score_completions([{"prompt": f"{i}+1="} for i in range(8)])
    assert not output["advantages"].any()


def test_plain_config_keeps_its_values(tmp_path, capsys):
    trainer = tiny.trainer(tmp_path, config_class=GRPOConfig, settings={"loss_type": "bnpo"})
    assert type(trainer.args) is GRPOConfig
    assert (trainer.loss_type, trainer.scale_rewards) == ("bnpo", "group")
    assert trainer._rule == CreditRule()
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if "method='default'" in line]
    assert len(lines) == 1
    assert "changes nothing of TRL's GRPO" in lines[0]
    assert "TRL's are loss_type='bnpo' and scale_rewards='group'" in lines[0]
    assert lines[0].endswith("#methods.")  # where to look for one to try


@dataclass
class ConfigOfAUser(GRPOConfig):
    """A subclass as users have them."""

    shout: bool = True
    method: str = "beam"  # a name of ours, and a meaning of theirs

    @property
    def loud(self) -> str:
        return "!" if self.shout else ""


def with_args(args) -> LambdaGRPOTrainer:
    return LambdaGRPOTrainer(
        tiny.model(),
        tiny.letter_reward,
        args,
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )


@pytest.mark.parametrize(
    "stock",
    [
        {},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"beta": 0.04, "num_iterations": 2},
        {"importance_sampling_level": "sequence", "loss_type": "grpo"},  # GSPO
        {"importance_sampling_level": "sequence", "loss_type": "luspo"},
        {"loss_type": "vespo"},
        {"off_policy_mask_threshold": 0.5, "num_iterations": 2},
    ],
    ids=str,
)
def test_whoever_swaps_the_import_trains_the_same_with_every_config(tmp_path, stock):
    runs = []
    for cls in (LambdaGRPOConfig, GRPOConfig, ConfigOfAUser):
        settings = (tiny.DEFAULT if cls is LambdaGRPOConfig else {}) | stock
        args = tiny.config(cls, tmp_path / cls.__name__, **settings)
        trainer = with_args(args)
        assert trainer.args is args
        assert trainer.loss_type == stock.get("loss_type", "dapo")
        trainer.train()
        runs.append(trainer)
    assert runs[2].args.loud == "!"
    for other in runs[1:]:
        tiny.assert_same_run(other, runs[0])


def test_a_script_may_name_loss_and_scale_once_for_several_trainers(tmp_path):
    """The config says after training what it said before."""
    args = tiny.config(LambdaGRPOConfig, tmp_path, **tiny.DEFAULT, method="dr_grpo")
    for method, loss_type in (("dr_grpo", "dr_grpo"), ("grpo", "dapo"), ("tempo", "grpo")):
        args.method = method
        trainer = with_args(args)
        assert (trainer.loss_type, args.loss_type) == (loss_type, None)


def test_a_search_over_our_fields_acts(tmp_path):
    """transformers sets the fields of a trial when training begins."""
    trainer = tiny.trainer(tmp_path, settings=tiny.DEFAULT | {"method": "grpo"})
    trainer.args.method, trainer.args.loss_type = "grpo_lambda", "bnpo"
    trainer.train()
    assert trainer._rule.traces_ratio
    assert trainer.loss_type == "bnpo"
    assert "trace/z_abs_mean" in trainer.state.log_history[0]


def test_no_config_at_all(monkeypatch, tmp_path):
    on_cpu = functools.partial(LambdaGRPOConfig, use_cpu=True, bf16=False)
    monkeypatch.setattr("trl_lambda.trainer.LambdaGRPOConfig", on_cpu)
    monkeypatch.chdir(tmp_path)
    trainer = LambdaGRPOTrainer(
        tiny.model(),
        tiny.letter_reward,
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )
    assert trainer.args.output_dir.endswith("-LambdaGRPO")
    assert trainer.args.credit_rule == CreditRule()


def test_iterable_dataset(tmp_path):
    rows = list(tiny.prompts())
    stream = IterableDataset.from_generator(lambda: iter(rows))
    trainer = tiny.trainer(tmp_path, train_dataset=stream, settings={"td_error": "tree"})
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.slow
def test_torch_compile(tmp_path):
    settings = {
        "trace_mode": "ratio",
        "beta": 0.04,
        "torch_compile": True,
        "torch_compile_backend": "eager",
        "num_iterations": 2,
    }
    compiled = build(tmp_path, settings=settings)
    compiled.train()
    plain = build(tmp_path, settings=settings | {"torch_compile": False})
    plain.train()
    torch.testing.assert_close(tiny.parameters(compiled), tiny.parameters(plain))


def test_conversational_prompts(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "1+1="}]}] * 8)

    def reward(completions, **columns):
        return [len(messages[0]["content"]) / 10 for messages in completions]

    trainer = tiny.trainer(
        tmp_path, reward_funcs=reward, train_dataset=dataset, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.state.global_step == 3


def test_help_and_editors_show_the_parameters_of_trl():
    """All of TRL's, in its order and with its defaults; then ours, by keyword alone."""
    ours = list(inspect.signature(LambdaGRPOTrainer).parameters.values())
    theirs = list(inspect.signature(GRPOTrainer).parameters.values())
    shown = [(one.name, one.default, one.kind) for one in ours[: len(theirs)]]
    assert shown == [(one.name, one.default, one.kind) for one in theirs]
    assert {one.kind for one in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
