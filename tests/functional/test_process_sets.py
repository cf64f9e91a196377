import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import groups_of_completions, padded
from worked_groups import WORKED_GROUPS

from trl_lambda.functional import (
    intermediate_proportion,
    path_depth,
    prefix_values,
    process_set_sizes,
)

REWARDS = st.one_of(st.floats(-2, 2), st.just(float("nan")))


def ragged(matrix, lengths):
    return [row[:n].tolist() for row, n in zip(matrix, lengths, strict=True)]


@pytest.mark.parametrize("group", WORKED_GROUPS, ids=lambda group: group[0])
def test_worked_groups(group):
    _, ids, sizes, depths, proportions, trivial, distinct = group
    tokens, lengths = padded(ids)
    got = process_set_sizes(tokens, lengths, torch.zeros(len(ids), dtype=torch.long))
    assert ragged(got, lengths) == sizes
    depth = path_depth(got, len(ids))
    assert depth.tolist() == depths
    assert (not depth.any()) == trivial
    torch.testing.assert_close(
        intermediate_proportion(got), torch.tensor(proportions), equal_nan=True
    )
    assert (1 / got[got > 0]).sum().item() == pytest.approx(distinct)


@given(groups_of_completions(), st.integers(0, 3), st.integers(0, 2))
def test_sizes_equal_the_definition(group, extra, filler):
    """The filler is a token that occurs: validity comes from the lengths."""
    ids, groups = group
    tokens, lengths = padded(ids, filler, extra)
    sizes = process_set_sizes(tokens, lengths, torch.tensor(groups))
    assert ragged(sizes, lengths) == oracles.set_sizes(ids, groups)
    past_end = torch.arange(tokens.shape[1]) >= lengths[:, None]
    assert not sizes[past_end].any()


@given(groups_of_completions(), st.data())
def test_values_equal_the_definition(group, data):
    ids, groups = group
    rewards = data.draw(st.lists(REWARDS, min_size=len(ids), max_size=len(ids)))
    tokens, lengths = padded(ids, extra=2)
    got = prefix_values(
        torch.tensor(rewards, dtype=torch.float64), tokens, lengths, torch.tensor(groups)
    )
    want = oracles.prefix_values(ids, groups, rewards, tokens.shape[1])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@given(groups_of_completions())
def test_inverse_sizes_count_distinct_prefixes(case):
    ids, groups = case
    tokens, lengths = padded(ids)
    sizes = process_set_sizes(tokens, lengths, torch.tensor(groups))
    prefixes = {
        (g, tuple(row[: t + 1]))
        for row, g in zip(ids, groups, strict=True)
        for t in range(len(row))
    }
    assert (1 / sizes[sizes > 0].double()).sum().item() == pytest.approx(len(prefixes))


@given(groups_of_completions(), st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_tokens_never_matter(group, random):
    ids, groups = group
    rewards = torch.randn(len(ids), dtype=torch.float64)
    tokens, lengths = padded(ids)
    group_ids = torch.tensor(groups)
    sizes = process_set_sizes(tokens, lengths, group_ids)
    values = prefix_values(rewards, tokens, lengths, group_ids)
    shuffled = list(range(len(ids)))
    random.shuffle(shuffled)
    names = [10**12, -5, 7]
    random.shuffle(names)
    renamed = torch.tensor(names)[tokens][shuffled]
    arguments = (renamed, lengths[shuffled], group_ids[shuffled] * -1000)
    assert torch.equal(process_set_sizes(*arguments), sizes[shuffled])
    torch.testing.assert_close(
        prefix_values(rewards[shuffled], *arguments), values[shuffled], rtol=1e-12, atol=1e-12
    )


def test_a_masked_completion_counts_at_the_root_alone():
    tokens = torch.tensor([[1, 2], [1, 3], [1, 2]])
    rewards, groups = torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3, dtype=torch.long)
    values = prefix_values(rewards, tokens, torch.tensor([2, 2, 0]), groups)
    assert values.tolist() == [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]


def test_the_last_value_is_the_mean_of_the_set_and_not_the_own_reward():
    tokens = torch.tensor([[1, 2], [1, 2]])
    zeros = torch.zeros(2, dtype=torch.long)
    values = prefix_values(torch.tensor([1.0, 0.0]), tokens, torch.tensor([2, 2]), zeros)
    assert values.tolist() == [[0.5, 0.5, 0.5]] * 2


def test_deep_chains_of_prefixes():
    """Every length its own set: as many distinct splits as rows."""
    ids = [[7] * n for n in range(1, 65)]
    tokens, lengths = padded(ids)
    sizes = process_set_sizes(tokens, lengths, torch.zeros(64, dtype=torch.long))
    assert sizes[-1].tolist() == list(range(64, 0, -1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_integer_dtypes(dtype):
    tokens = torch.tensor([[0, 255 if dtype == torch.uint8 else 9], [0, 0]]).to(dtype)
    groups = torch.zeros(2, dtype=torch.int32)
    sizes = process_set_sizes(tokens, torch.tensor([2, 1], dtype=torch.int32), groups)
    assert sizes.tolist() == [[2, 1], [2, 0]]


def test_completions_without_tokens():
    zeros = torch.zeros(3, dtype=torch.long)
    tokens = zeros.reshape(3, 1)[:, :0]
    assert process_set_sizes(tokens, zeros, zeros).shape == (3, 0)
    assert prefix_values(torch.ones(3), tokens, zeros, zeros).tolist() == [[1.0]] * 3


def test_a_single_completion():
    one = torch.ones(1, dtype=torch.long)
    assert process_set_sizes(one[None], one, one).tolist() == [[1]]


IDS, LENGTHS, GROUPS = torch.ones(2, 3).long(), torch.tensor([3, 1]), torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS[0], LENGTHS, GROUPS), r"token_ids must be \(B, T\) .* got shape \(3,\)"),
        ((IDS[:0], LENGTHS[:0], GROUPS[:0]), r".* at least one completion, got shape \(0, 3\)"),
        ((IDS, LENGTHS[:1], GROUPS), r"lengths must have shape \(2,\) .* got \(1,\)"),
        ((IDS, LENGTHS, GROUPS[None]), r"group_ids must have shape \(2,\) .* got \(1, 2\)"),
        ((IDS.float(), LENGTHS, GROUPS), r"token_ids must be integers, got torch.float32"),
        ((IDS, LENGTHS + 1, GROUPS), r"lengths must lie in \[0, 3\], got 2 … 4"),
        ((IDS, LENGTHS - 2, GROUPS), r"lengths must lie in \[0, 3\], got -1 … 1"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match="process sets: " + message):
        process_set_sizes(*arguments)


def test_bad_rewards_are_named():
    with pytest.raises(ValueError, match=r"rewards must be floating point of shape \(2,\), got"):
        prefix_values(torch.ones(3), IDS, LENGTHS, GROUPS)
