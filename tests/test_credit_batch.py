"""The door for TD errors: what a function reads, what it may return, and what stays ours."""

from dataclasses import dataclass

import pytest
import tiny
import torch

import trl_lambda
from trl_lambda import CreditBatch, LambdaGRPOConfig
from trl_lambda.td_errors import TD_ERRORS, Signal, checked_td_errors, td_error_name

EOS = tiny.EOS
COMPLETIONS = [[5, 6, 7, EOS], [5, 6, 8, EOS], [5, 9, EOS], [4, 6, EOS]]
REWARDS = [1.0, 0.0, 0.5, 0.0]


def by_row(completions, **columns):
    return [REWARDS[i % 4] for i in range(len(completions))]


def build(tmp_path, td_error=None, *, settings=None, completions=COMPLETIONS, **kw):
    return tiny.trainer(
        tmp_path,
        reward_funcs=by_row,
        rollout_func=tiny.scripted(completions),
        settings=tiny.DEFAULT | {"method": "grpo", "scale_rewards": "none"} | (settings or {}),
        td_error=td_error,
        **kw,
    )


def score(trainer, count=4):
    trainer.model.train()
    rows = [{"prompt": f"{i // 4}+1=", "gold": str(i)} for i in range(count)]
    return trainer._generate_and_score_completions(rows)


def seen_by(tmp_path, **settings) -> CreditBatch:
    seen = []

    def look(batch):
        seen.append(batch)
        return batch.advantage_B[:, None] * batch.mask_BT

    score(build(tmp_path, look, settings=settings), 8)
    return seen[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "default", "trace_style": "recent", "advantage_floor": -0.1},
        {"method": "grpo_lambda"},
        {"method": "lambda_grpo"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["group", "terminal"])
def test_a_built_in_td_error_through_the_door_is_the_built_in_one(tmp_path, name, settings):
    if settings.get("method") == "default":
        settings = settings | {"normalize_trace": True}  # unset, it would follow the TD error
    named = score(build(tmp_path / "name", settings=settings | {"td_error": name}))
    function = TD_ERRORS[name].function
    passed = score(build(tmp_path / "function", lambda b: function(b), settings=settings))
    want = named["advantages"]
    if want.ndim == 1:  # TRL's own advantages, one for each completion
        want = want[:, None] * passed["completion_mask"]
    torch.testing.assert_close(passed["advantages"], want, rtol=0, atol=0)


def test_every_attribute_has_the_documented_shape(tmp_path):
    batch = seen_by(tmp_path)
    B, T = 8, 4
    for name in ("mask_BT", "sizes_BT", "completion_ids_BT"):
        assert getattr(batch, name).shape == (B, T), name
    for name in ("reward_B", "advantage_B", "group_B", "lengths_B", "denominator_B", "reward_N"):
        assert getattr(batch, name).shape == (B,), name
    assert batch.values_BT1.shape == (B, T + 1)
    assert batch.reward_B.tolist() == REWARDS * 2
    assert batch.group_B.tolist() == [0] * 4 + [1] * 4
    assert (batch.group_size, batch.rows) == (4, slice(0, 8))
    assert batch.lengths_B.tolist() == [4, 4, 3, 3] * 2
    assert batch.completion_ids_BT[2].tolist() == [5, 9, EOS, -1]
    assert batch.sizes_BT[0].tolist() == [3, 2, 1, 1]
    assert batch.values_BT1[0].tolist() == pytest.approx([0.375, 0.5, 0.5, 1.0, 1.0])
    assert batch.groups.sets.sizes().shape == (B, T)
    assert list(batch.columns) == ["gold"]
    assert batch.columns["gold"] == [str(i) for i in range(8)]
    assert batch.prompts[4] == "1+1="
    encode = tiny.tokenizer()
    assert batch.texts == [encode.decode(row[:-1]) for row in COMPLETIONS * 2]
    prompt = [token for token in batch.prompt_ids_BP[0].tolist() if token >= 0]
    assert encode.decode(prompt) == encode.decode(encode("0+1=")["input_ids"])


def test_the_floor_acts_before_the_function_sees_the_advantage(tmp_path):
    batch = seen_by(tmp_path, advantage_floor=-0.1)
    mean = sum(REWARDS) / 4
    assert batch.advantage_B.tolist() == pytest.approx([max(r - mean, -0.1) for r in REWARDS] * 2)


def test_log_probs_are_those_of_each_prefix_scored_alone(tmp_path):
    asked = [(0, 0, [9, 4]), (1, 2, [5]), (3, 3, [6, 7, 8, 9]), (2, 1, [4, 4]), (7, 3, [5])]
    found = []

    def ask(batch):
        found.append(batch.log_probs(asked))
        return batch.advantage_B[:, None] * batch.mask_BT

    trainer = build(tmp_path, ask, settings={"temperature": 0.7})
    trainer.args.per_device_train_batch_size = 2  # passes of two
    score(trainer, 8)
    model, encode = trainer.model.eval(), tiny.tokenizer()
    for (row, start, ids), got in zip(asked, found[0], strict=True):
        prompt = encode(f"{row // 4}+1=")["input_ids"]
        prefix = prompt + COMPLETIONS[row % 4][:start]
        with torch.no_grad():
            logits = model(torch.tensor([prefix + ids])).logits[0, len(prefix) - 1 : -1] / 0.7
        want = logits.log_softmax(-1)[range(len(ids)), ids]
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([(8, 0, [5])], "names row 8 of 8 completions"),
        ([(0, 5, [5])], "starts after 5 tokens of a completion that has 4"),
        ([(0, 0, [5.5])], "has to be a list of token ids ≥ 0"),
    ],
)
def test_continuations_that_cannot_be_are_refused(tmp_path, asked, message):
    def ask(batch):
        batch.log_probs(asked)

    with pytest.raises(ValueError, match=message):
        score(build(tmp_path, ask), 8)


def test_asking_for_nothing_is_fine(tmp_path):
    def ask(batch):
        assert batch.log_probs([]) == []
        return batch.advantage_B[:, None] * batch.mask_BT

    score(build(tmp_path, ask))


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda b: None, TypeError, r"returned NoneType; expected a floating-point tensor"),
        (lambda b: b.sizes_BT, TypeError, r"returned torch.int64; expected a floating-point"),
        (lambda b: b.advantage_B, ValueError, r"returned the shape \(4,\).* multiply it by"),
        (lambda b: b.advantage_B[:, None] / 0 * b.mask_BT, ValueError, r"returned (inf|-inf|nan)"),
    ],
)
def test_what_is_no_td_error_is_refused_by_name(tmp_path, returned, error, message):
    with pytest.raises(error, match=message) as caught:
        score(build(tmp_path, returned))
    assert "test_credit_batch" in str(caught.value)


def test_what_stands_on_masked_tokens_never_matters(tmp_path):
    def clean(batch):
        return batch.advantage_B[:, None] * batch.mask_BT

    def dirty(batch):
        return clean(batch).masked_fill(~batch.mask_BT, torch.nan)

    want = score(build(tmp_path / "clean", clean, settings={"method": "default"}))
    got = score(build(tmp_path / "dirty", dirty, settings={"method": "default"}))
    assert torch.equal(got["advantages"], want["advantages"])


def test_gradients_and_devices_of_the_function_do_not_reach_the_loss(tmp_path):
    scale = torch.ones((), requires_grad=True)

    def scaled(batch):
        return batch.advantage_B[:, None] * batch.mask_BT * scale

    trainer = build(tmp_path, scaled)
    assert not score(trainer)["advantages"].requires_grad
    trainer.train()
    assert scale.grad is None


def test_it_trains_logs_and_records_as_a_built_in_one(tmp_path):
    def mine(batch):
        return batch.advantage_B[:, None] * batch.mask_BT

    settings = tiny.TRACE_AND_FLOOR | {"credit_log_steps": 1, "log_completions": True}
    settings |= {"method": "default", "beta": 0.04}
    trainer = build(tmp_path, mine, settings=settings)
    trainer.train()
    assert {"trace/gain_first_tenth", "kl"} <= set(trainer.state.log_history[0])
    assert "test_credit_batch" in (tmp_path / "credit_log" / "meta.json").read_text()


@dataclass
class Scaled:
    """A callable with settings of its own; a data class that compares by value has no hash."""

    factor: float

    def __call__(self, batch):
        return self.factor * batch.advantage_B[:, None] * batch.mask_BT


def test_a_function_may_be_an_object_that_is_not_hashable(tmp_path):
    with pytest.raises(TypeError):
        hash(Scaled(2.0))
    ours = build(tmp_path / "ours", Scaled(2.0), settings={"credit_log_steps": 1})
    plain = build(
        tmp_path / "plain", lambda batch: 2.0 * batch.advantage_B[:, None] * batch.mask_BT
    )
    assert torch.equal(score(ours)["advantages"], score(plain)["advantages"])
    ours.train()
    assert "test_credit_batch.Scaled" in (tmp_path / "ours/credit_log/meta.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_credit_has_one_precision_whatever_the_function_computes_in(tmp_path, dtype):
    def computed(batch):
        return (batch.advantage_B[:, None] * batch.mask_BT).to(dtype)

    output = score(build(tmp_path, computed))
    assert output["advantages"].dtype == torch.float32


def test_what_is_finite_in_float64_alone_is_refused(tmp_path):
    def too_large(batch):
        return batch.mask_BT.double() * 1e300

    with pytest.raises(ValueError, match="returned inf for token 0 of completion 0"):
        score(build(tmp_path, too_large))


def test_a_td_error_is_given_once(tmp_path):
    with pytest.raises(ValueError, match="td_error was given twice: 'tree' in the config"):
        build(tmp_path, lambda batch: None, settings={"td_error": "tree"})


def test_the_name_of_a_function():
    assert td_error_name("tree") == "tree"
    assert td_error_name(by_row) == "test_credit_batch.by_row"


def test_a_bridge_s_rule_takes_a_function_of_the_numbers():
    """Where there is no trainer a function gets a `Signal`."""
    mask = torch.ones(2, 3)
    signal = Signal(mask, torch.tensor([1.0, -1.0]), mask.long())
    delta = checked_td_errors(lambda s: s.advantage_B[:, None] / s.sizes_BT, signal)
    assert delta.tolist() == [[1.0] * 3, [-1.0] * 3]


def test_the_public_names():
    assert trl_lambda.CreditBatch is CreditBatch
    assert trl_lambda.LambdaGRPOConfig is LambdaGRPOConfig
