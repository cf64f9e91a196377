"""The credit over an engine's padded batch equals the trainer's; what cannot be is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rollouts
import torch

from trl_lambda.bridges.dataproto import check_images, credit_of_batch, verl_rule
from trl_lambda.bridges.padded import TokenIds, padded_credit, read_rule


def assert_credit(got, want, order=rollouts.INTERLEAVED):
    torch.testing.assert_close(got, want[order].to(got), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize(("td_error", "options", "needs_ids"), rollouts.RULES, ids=str)
def test_same_tokens_and_rewards_same_credit_as_the_trainer(
    tmp_path, td_error, options, needs_ids, scale
):
    steps = rollouts.STEPS if td_error == "process" else None
    settings = rollouts.trainer_settings(td_error, options, scale)
    want = rollouts.trainer_credit(tmp_path, settings, steps)
    given = {"step_rewards": [steps[i] for i in rollouts.INTERLEAVED]} if steps else {}
    data = rollouts.batch(**given)
    credit_of_batch(data, td_error, {"trl_lambda": options | {"scale_rewards": scale}})
    assert want.abs().sum() > 0
    assert_credit(data.batch["advantages"], want)
    assert torch.equal(data.batch["returns"], data.batch["advantages"])


@pytest.mark.parametrize("normalize", [True, False])
def test_verls_own_setting_scales_rewards(tmp_path, normalize):
    settings = rollouts.trainer_settings("group", {}, "group" if normalize else "none")
    data = rollouts.batch()
    credit_of_batch(data, "group", {"norm_adv_by_std_in_grpo": normalize})
    assert_credit(data.batch["advantages"], rollouts.trainer_credit(tmp_path, settings))


def test_steps_at_tokens_equal_given_steps_up_to_a_constant():
    """Steps of reward 0 cannot be told from no step: a constant on all changes nothing."""
    config = {"trl_lambda": rollouts.RECENT | {"normalize_trace": False}}
    shifted = [[(end, r + 1) for end, r in s] if s else s for s in rollouts.STEPS]
    order = rollouts.INTERLEAVED
    given = rollouts.batch(step_rewards=[rollouts.STEPS[i] for i in order])
    as_text = rollouts.batch(step_rewards=np.array([json.dumps(rollouts.STEPS[i]) for i in order]))
    at_tokens = rollouts.batch(token_rewards=shifted)
    with pytest.warns(UserWarning, match="add a constant"):  # one completion has no step
        credit_of_batch(at_tokens, "process", config)
    for data in (given, as_text):
        credit_of_batch(data, "process", config)
        torch.testing.assert_close(data.batch["advantages"], at_tokens.batch["advantages"])


def test_order_and_padding_change_nothing():
    """float64, so that sums in another order do not show."""
    straight, mixed = rollouts.batch(list(range(8))), rollouts.batch()
    for data in (straight, mixed):
        data.batch["token_level_rewards"] = data.batch["token_level_rewards"].double()
    mixed.batch["responses"][2, 4:] = 40  # beyond the end
    mixed.batch["prompts"][0, 0] = 40  # before the start
    for data in (straight, mixed):
        credit_of_batch(data, "tree", {"trl_lambda": {"process_set_weighting": True}})
    assert_credit(mixed.batch["advantages"], straight.batch["advantages"])


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_group_of_one_learns_nothing_and_changes_no_other(scale):
    data = rollouts.batch()
    config = {"trl_lambda": {"scale_rewards": scale}}
    credit_of_batch(data, "group", config)
    both = data.batch["advantages"].clone()
    data.non_tensor_batch["uid"][3] = "alone"
    data.batch["token_level_rewards"][3] = 5.0
    credit_of_batch(data, "group", config)
    other_group = [row for row, i in enumerate(rollouts.INTERLEAVED) if i < 4]
    assert not data.batch["advantages"][3].any()
    assert torch.equal(data.batch["advantages"][other_group], both[other_group])


def test_a_row_without_reward_learns_nothing_and_is_no_baseline():
    """As the trainer has it where all reward functions abstain."""
    data, without = rollouts.batch(), rollouts.batch()
    config = {"trl_lambda": {"scale_rewards": "batch"}}
    data.batch["token_level_rewards"][3, 0] = torch.nan
    kept = [row for row in range(8) if row != 3]
    without.batch = {name: tensor[kept] for name, tensor in without.batch.items()}
    without.non_tensor_batch["uid"] = without.non_tensor_batch["uid"][kept]
    for each in (data, without):
        credit_of_batch(each, "tree", config)
    assert not data.batch["advantages"][3].any()
    torch.testing.assert_close(data.batch["advantages"][kept], without.batch["advantages"])


def test_verls_filler_rows_count_nowhere():
    config = {"trl_lambda": {"scale_rewards": "batch", "process_set_weighting": True}}
    data, longer = rollouts.batch(), rollouts.batch()
    for name, tensor in longer.batch.items():
        filler = torch.zeros_like(tensor[:2])
        if name == "attention_mask":
            filler[:, :-6] = 1
            filler[:, -6] = 1
        longer.batch[name] = torch.cat([tensor, filler])
    uid = np.empty(10, dtype=object)
    uid[:8], uid[8:] = data.non_tensor_batch["uid"], "pad" + "0123456789abcdef" * 2
    longer.non_tensor_batch["uid"] = uid
    for each in (data, longer):
        credit_of_batch(each, "group", config)
    assert torch.equal(longer.batch["advantages"][:8], data.batch["advantages"])
    assert not longer.batch["advantages"][8:].any()


def test_a_completion_that_is_masked_out_leaves_the_process_sets():
    data, plain = rollouts.batch(list(range(8))), rollouts.batch(list(range(8)))
    data.batch["response_mask"][0] = 0
    options = {"trace_style": "none"}
    credit_of_batch(plain, "group", {"trl_lambda": options})
    credit_of_batch(data, "group", {"trl_lambda": options | {"process_set_weighting": True}})
    # Of the first token 5 two completions are left, of "5 6" one; the second is a tool's.
    want = plain.batch["advantages"][1] * torch.tensor([1 / 2, 0, 1, 1, 0, 0])
    torch.testing.assert_close(data.batch["advantages"][1], want)
    assert not data.batch["advantages"][0].any()


def test_prompts_are_part_of_a_prefix():
    data = rollouts.batch()
    data.batch["prompts"][0, -1] = 40  # an environment changed one member's prompt
    same = rollouts.batch()
    config = {"trl_lambda": {"trace_style": "none", "process_set_weighting": True}}
    for each in (data, same):
        credit_of_batch(each, "group", config)
    ratio = data.batch["advantages"][0, 0] / same.batch["advantages"][0, 0]
    assert ratio.item() == pytest.approx(3)  # three shared the first token, now it is alone


@pytest.mark.parametrize(
    ("td_error", "config", "message"),
    [
        (
            "group",
            {"trl_lambda": rollouts.RECENT | {"trace_mode": "ratio"}},
            "trace_mode='ratio'.*inside the loss",
        ),
        ("group", {"trl_lambda": {"trace_lamda": 0.9}}, "unknown option 'trace_lamda'"),
        ("group", {"trl_lambda": {"trace_lambda": 1.5}}, "trace_lambda=1.5"),
        ("group", {"trl_lambda": {"trace_lambda": True}}, "trace_lambda=True"),
        ("group", {"trl_lambda": {"normalize_trace": 1}}, "normalize_trace=1"),
        ("group", {"trl_lambda": {"advantage_floor": 0.5}}, "advantage_floor=0.5"),
        ("group", {"trl_lambda": {"scale_rewards": "std"}}, "scale_rewards='std'"),
        (
            "group",
            {"trl_lambda": {"trace_style": "none", "trace_lambda": 0.5}},
            "nothing for it to act on",
        ),
        (
            "tree",
            {"trl_lambda": rollouts.RECENT | {"trace_mode": "weight"}},
            "td_error='tree' adds the untraced",
        ),
        ("process", {"trl_lambda": {"advantage_floor": -0.2}}, "advantage_floor=-0.2"),
        ("group", {"lam": 0.95}, r"algorithm.lam=0.95 is GAE's.*trace_lambda=0.95.*recent"),
        ("group", {"gamma": 0.9}, r"algorithm.gamma=0.9 is GAE's.*trace_lambda=0.9"),
        ("process", {"use_kl_in_reward": True}, "use_kl_in_reward"),
        ("grupo", {}, "td_error='grupo'"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_by_name(td_error, config, message):
    with pytest.raises(ValueError, match=message):
        verl_rule(td_error, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.non_tensor_batch.pop("uid"), "no 'uid'"),
        (lambda d: d.batch.pop("prompts"), "lacks prompts"),
        (lambda d: d.batch["attention_mask"][1, -5:].copy_(torch.eye(5)[2]), "no holes"),
        (lambda d: d.batch["response_mask"][0, -1].fill_(1), "past its end"),
        (lambda d: d.batch["token_level_rewards"][4, 0].fill_(-torch.inf), "completion 4 is -inf"),
        (
            lambda d: d.batch.update(token_level_rewards=torch.zeros(8, 3)),
            r"\(8, 3\) and \(8, 6\)",
        ),
        (lambda d: d.batch.update(token_level_rewards=torch.zeros(8, 6).long()), "torch.int64"),
        (lambda d: d.non_tensor_batch.update(uid=["a"] * 7), "7 names of groups"),
    ],
)
def test_batches_that_do_not_fit_are_refused_by_name(change, message):
    data = rollouts.batch()
    change(data)
    with pytest.raises(ValueError, match=message):
        credit_of_batch(data, "tree")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[[0, 1.0]", "row 2"),
        ([(0.5, 1.0)], "whole number|expected a list"),
        ([(9, 1.0)], "has 6 tokens"),
        ([(0, float("nan"))], "must be finite"),
        (3, "row 2"),
    ],
)
def test_bad_steps_are_refused_by_name(given, message):
    data = rollouts.batch(step_rewards=[None, None, given, *[None] * 5])
    with pytest.raises(ValueError, match=message):
        credit_of_batch(data, "process")


def test_images_that_members_of_a_group_do_not_share_are_refused():
    shown = [{"pixel_values": torch.ones(2), "token_type_ids": torch.ones(i)} for i in range(8)]
    data = rollouts.batch(multi_modal_inputs=np.array(shown, dtype=object))
    credit_of_batch(data, "tree")
    data.non_tensor_batch["multi_modal_inputs"][5]["pixel_values"] = torch.zeros(2)
    with pytest.raises(NotImplementedError, match="images"):
        credit_of_batch(data, "tree")
    credit_of_batch(data, "group")  # prefixes do not matter there


def test_token_ids_are_needed_for_what_compares_them():
    with pytest.raises(ValueError, match="compare token ids, and none were given"):
        padded_credit(read_rule("tree"), torch.ones(2, 3), torch.ones(2, 3), [0, 0])


def test_the_bridge_needs_torch_and_neither_trl_nor_verl():
    script = (
        "import sys; import trl_lambda.bridges.dataproto; "
        "print(*{'trl', 'verl', 'transformers', 'accelerate', 'datasets'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("completion_ids_BT", (8, 3)),
        ("completion_ids_BT", (7, 4)),
        ("lengths_B", (7,)),
        ("lengths_B", (8, 1)),
        ("prompt_ids_BP", (7, 2)),
    ],
)
def test_tokens_that_do_not_fit_the_mask_are_named(name, shape):
    fitting = {"completion_ids_BT": (8, 4), "lengths_B": (8,), "prompt_ids_BP": (8, 2)}
    tokens = {n: torch.zeros(s, dtype=torch.long) for n, s in (fitting | {name: shape}).items()}
    with pytest.raises(ValueError, match=rf"^trl_lambda: {name} has the shape \({shape[0]}"):
        padded_credit(
            read_rule("tree"),
            torch.zeros(8, 4),
            torch.ones(8, 4),
            [0] * 8,
            tokens=TokenIds(**tokens),
        )


def test_filler_rows_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"^trl_lambda: ignored_B has the shape \(3,\)"):
        padded_credit(
            read_rule("group"),
            torch.zeros(2, 4),
            torch.ones(2, 4),
            [0, 0],
            ignored_B=torch.zeros(3, dtype=torch.bool),
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.ones((2, 2)), np.zeros((2, 2))),
        ([torch.ones(2), torch.ones(3)], [torch.ones(2), torch.zeros(3)]),
        ({"tiles": [np.ones(1)]}, {"tiles": [np.ones(2)]}),
        ([1, 2], [1]),
    ],
    ids=["arrays", "lists of tensors", "dicts", "lists"],
)
def test_images_are_compared_whatever_holds_them(one, other):
    same = [{"pixel_values": one} for _ in range(8)]
    check_images(same, [0] * 8)
    with pytest.raises(NotImplementedError, match="images"):
        check_images([*same[:7], {"pixel_values": other}], [0] * 8)


def test_an_answer_probe_is_refused_and_says_why():
    for given in ({"td_error": "probe"}, {"options": {"method": "probe"}}):
        with pytest.raises(ValueError, match=r"^trl_lambda: td_error='probe' asks the policy .*no"):
            read_rule(**given)


def test_step_rewards_by_steps():
    """Two steps of two tokens, of rewards 1 and 0 after normalisation by nothing."""
    rewards, mask = torch.zeros(2, 4), torch.ones(2, 4)
    steps = [[(1, 3.0), (3, 2.0)], [(1, 2.0), (3, 1.0)]]
    options = {"trace_lambda": 0.5, "trace_per": "step", "scale_rewards": "none"}
    rule = read_rule("process", options | {"method": "process"})
    found = padded_credit(rule, rewards, mask, [0, 0], steps=steps).advantage_BT
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0], [-0.5, -0.5, -1.0, -1.0]]
