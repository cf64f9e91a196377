import pytest
import sibling_oracles
import torch
from branching import REWARDS, even_tree, trees
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import padded

from trl_lambda.functional import (
    Branches,
    branch_advantages,
    branch_sets,
    branch_weights,
    prefix_sets,
    reward_denominator,
    tree_td_errors,
)

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
AVERAGINGS = st.sampled_from(["leaves", "children"])


def draw_rewards(data, B: int):
    return data.draw(st.lists(REWARDS, min_size=B, max_size=B))


@given(trees(), st.integers(0, 2))
def test_sizes_count_the_rows_that_took_the_token_over(tree, extra):
    got = tree.sets(tree.width + extra).sizes()
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    for i, own in enumerate(got):
        for t, size in enumerate(own.tolist()):
            sharing = sibling_oracles.members(writer, tree.groups, i, t + 1)
            counted = [j for j in sharing if tree.lengths[j] > 0]
            assert size == (len(counted) if t < tree.lengths[i] else 0)


@given(trees(), AVERAGINGS, st.data())
def test_values_equal_the_definition(tree, averaging, data):
    rewards = draw_rewards(data, len(tree.ids))
    got = tree.sets().mean(torch.tensor(rewards, dtype=torch.float64), averaging)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    want = sibling_oracles.values(writer, tree.lengths, tree.groups, rewards, tree.width, averaging)
    torch.testing.assert_close(got, want, **TIGHT)


@given(trees(truncate=False), st.data())
def test_children_of_equal_tokens(tree, data):
    """The mean of children is there for equal prefixes too."""
    rewards = draw_rewards(data, len(tree.ids))
    sets = prefix_sets(tree.tokens(), torch.tensor(tree.lengths), torch.tensor(tree.groups))
    got = sets.mean(torch.tensor(rewards, dtype=torch.float64), "children")
    token = sibling_oracles.by_tokens(tree.ids)
    want = sibling_oracles.values(token, tree.lengths, tree.groups, rewards, tree.width, "children")
    torch.testing.assert_close(got, want, **TIGHT)


def test_a_root_that_is_forked_often_counts_once():
    """Root A, r = 1, is not forked; root B, r = 0, seven ways: leaves say 1/8, the policy 1/2."""
    parents, forks = [0] + [1] * 7, [0, 0] + [2] * 6
    tokens = torch.tensor([[1, 2, 3]] + [[4, 5, 6 + m] for m in range(7)])
    branches = Branches(torch.tensor(parents), torch.tensor(forks))
    sets = branch_sets(tokens, torch.full((8,), 3), torch.zeros(8, dtype=torch.long), branches)
    rewards = torch.tensor([1.0] + [0.0] * 7)
    assert sets.mean(rewards, "children")[:, 0].tolist() == [1 / 2] * 8
    assert sets.mean(rewards, "leaves")[:, 0].tolist() == [1 / 8] * 8


def test_three_levels_by_hand():
    """Row 0 is forked at 1 by row 1; row 1 at 2 by row 2; row 2 at 3 by rows 3 and 4."""
    ids = [[1, 1, 1, 1], [1, 2, 1, 1], [1, 2, 2, 1], [1, 2, 2, 2], [1, 2, 2, 1]]
    branches = Branches(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 3, 3]))
    groups, lengths = torch.zeros(5, dtype=torch.long), torch.full((5,), 4)
    sets = branch_sets(torch.tensor(ids), lengths, groups, branches)
    rewards = torch.tensor([1.0, 0.0, 3.0, 6.0, 9.0])
    inner = (3.0 + 6.0 + 9.0) / 3
    middle = (0.0 + inner) / 2
    root = (1.0 + middle) / 2
    assert sets.mean(rewards, "children").tolist() == [
        [root, root, 1.0, 1.0, 1.0],
        [root, root, middle, 0.0, 0.0],
        [root, root, middle, inner, 3.0],
        [root, root, middle, inner, 6.0],
        [root, root, middle, inner, 9.0],
    ]
    # Rows 2 and 4 agree to the end: by equal tokens they would be one completion.
    assert sets.sizes()[2].tolist() == [5, 4, 3, 1]
    assert prefix_sets(torch.tensor(ids), lengths, groups).sizes()[2].tolist() == [5, 4, 3, 2]


def test_a_fork_before_the_parents_own_fork_is_one_of_the_parents_parent():
    """Row 2 took one token from row 1, which row 1 had taken from row 0."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 5, 6]])
    lengths, groups = torch.full((3,), 3), torch.zeros(3, dtype=torch.long)
    by_way_of_1 = Branches(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    directly = Branches(torch.tensor([0, 0, 0]), torch.tensor([0, 2, 1]))
    rewards = torch.tensor([4.0, 2.0, 1.0])
    for averaging, root in (("children", 2.0), ("leaves", 7 / 3)):
        values = [
            branch_sets(ids, lengths, groups, branches).mean(rewards, averaging)
            for branches in (by_way_of_1, directly)
        ]
        assert torch.equal(*values)
        assert values[0][0].tolist() == pytest.approx([root, root, 3.0, 4.0])


def test_a_fork_at_token_0_is_one_more_root():
    ids, lengths = torch.tensor([[1, 2], [1, 2]]), torch.tensor([2, 2])
    zeros = torch.zeros(2, dtype=torch.long)
    sets = branch_sets(ids, lengths, zeros, Branches(zeros, zeros))
    assert sets.sizes().tolist() == [[1, 1], [1, 1]]


@given(trees(truncate=False), st.data())
def test_without_coincidences_branch_ids_and_equal_tokens_agree(tree, data):
    """Tokens that name their writer are equal where they are the same."""
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    for i, row in enumerate(tree.ids):
        row[:] = [writer(i, t) for t in range(len(row))]
    # A fork without a token of its own cannot be told from its parent by tokens.
    assume(not any(f == n > 0 for f, n in zip(tree.forks, tree.lengths, strict=True)))
    rewards = torch.tensor(draw_rewards(data, len(tree.ids)), dtype=torch.float64)
    lengths, groups = torch.tensor(tree.lengths), torch.tensor(tree.groups)
    equal, branched = prefix_sets(tree.tokens(), lengths, groups), tree.sets()
    assert torch.equal(equal.sizes(), branched.sizes())
    torch.testing.assert_close(equal.mean(rewards), branched.mean(rewards), **TIGHT)
    # Rows that left the counts have no place in a tree of tokens: by children that shows at V_0.
    if lengths.all():
        values = (sets.mean(rewards, "children") for sets in (equal, branched))
        torch.testing.assert_close(*values, **TIGHT)


@given(trees(), AVERAGINGS, st.data())
def test_order_of_rows_padding_and_names_of_tokens_never_matter(tree, averaging, data):
    rewards = torch.tensor(draw_rewards(data, len(tree.ids)), dtype=torch.float64)
    order = data.draw(st.permutations(range(len(tree.ids))))
    other = tree.permuted(order)
    other.ids = [[7 - 3 * token for token in row] for row in other.ids]
    sets, others = tree.sets(), other.sets(tree.width + 2, filler=4)
    T = tree.width
    assert torch.equal(others.sizes()[:, :T], sets.sizes()[order])
    assert not others.sizes()[:, T:].any()
    values = others.mean(rewards[order], averaging)
    torch.testing.assert_close(values[:, : T + 1], sets.mean(rewards, averaging)[order], **TIGHT)


def test_a_row_that_left_the_counts_still_carries_its_forks():
    tree = even_tree(K=2, M=3, fork=2, length=4)
    tree.lengths[0], tree.ids[0] = 0, [7] * 4
    rewards = torch.tensor([9.0, 1.0, 2.0, 0.0, 0.0, 3.0])
    sets = tree.sets()
    assert sets.sizes()[1].tolist() == [2, 2, 1, 1]
    root = [(4.0 + 1.0) / 2]  # of the row that left, too: it is what A_i subtracts
    assert sets.mean(rewards, "children")[1].tolist() == [*root, 1.5, 1.5, 1.0, 1.0]
    assert sets.mean(rewards, "children")[0].tolist() == root * 5


def test_own_tokens_are_those_behind_the_fork():
    branches = Branches(torch.tensor([0, 0]), torch.tensor([0, 2]))
    assert branches.own_tokens(3).tolist() == [[True] * 3, [False, False, True]]


@given(trees(truncate=False))
def test_own_tokens_count_each_physical_token_once(tree):
    own = Branches(torch.tensor(tree.parents), torch.tensor(tree.forks)).own_tokens(tree.width)
    there = torch.arange(tree.width) < torch.tensor(tree.lengths)[:, None]
    sizes = tree.sets().sizes()
    physical = (1 / sizes[sizes > 0].double()).sum().item()
    assert (own & there).sum().item() == pytest.approx(physical)


def test_tree_on_branches_is_the_gain_of_each_token():
    tree = even_tree(K=2, M=2, fork=1, length=2)
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    values = tree.sets().mean(rewards, "children")
    delta = tree_td_errors(values, torch.ones(4, 2), torch.ones(4))
    assert delta.tolist() == [[0.25, 0.5], [0.25, -0.5], [-0.25, 0.0], [-0.25, 0.0]]
    assert reward_denominator(rewards, torch.zeros(4).long()).unique().numel() == 1


def test_deep_chains_keep_their_values():
    """A thousand levels: the share of the last leaf in the root's value is 2^−1000."""
    ids = [[7] * n for n in range(1, 1201)]
    tokens, lengths = padded(ids)
    sets = prefix_sets(tokens, lengths, torch.zeros(len(ids), dtype=torch.long))
    rewards = torch.zeros(len(ids))
    rewards[-2:] = 1.0
    values = sets.mean(rewards, "children")
    assert values[-1, -2:].tolist() == [1.0, 1.0]
    assert values[-1, -3].item() == 0.5


IDS, LENGTHS, GROUPS = torch.tensor([[1, 2], [1, 3]]), torch.tensor([2, 2]), torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("parents", "forks", "changes", "message"),
    [
        ([0], [0], {}, r"parent must have shape \(2,\).* got \(1,\)"),
        ([0, 0], [0.0, 1.0], {}, r"fork must be integers, got torch.float32"),
        ([0, 2], [0, 1], {}, r"completion 1 has the parent 2; a parent is a row in \[0, 2\)"),
        ([0, -1], [0, 1], {}, r"completion 1 has the parent -1"),
        ([0, 0], [0, 1], {"groups": torch.tensor([0, 1])}, "completion 1 .* of another group"),
        ([0, 0], [1, 1], {}, "completion 0 is forked at 1 from row 0; .* a root's .* at 0"),
        ([0, 0], [0, -1], {}, "completion 1 is forked at -1 from row 0; a fork stands at 0 or"),
        ([1, 0], [1, 1], {}, "completion 0 comes from itself: its line of parents never ends"),
        ([0, 0], [0, 3], {}, "completion 1 of 2 tokens is forked at 3 from row 0 of 2 tokens"),
        (
            [0, 0],
            [0, 2],
            {"lengths": torch.tensor([1, 2])},
            ".* 2 tokens .* row 0 of 1 tokens",
        ),
        ([0, 0], [0, 2], {}, "completion 1 is forked at 2 from row 0, but their tokens differ"),
    ],
)
def test_ids_that_cannot_be_are_named(parents, forks, changes, message):
    branches = Branches(torch.tensor(parents), torch.tensor(forks))
    arguments = (IDS, changes.get("lengths", LENGTHS), changes.get("groups", GROUPS), branches)
    with pytest.raises(ValueError, match="branches: " + message):
        branch_sets(*arguments)


def test_bad_averages_are_named():
    with pytest.raises(ValueError, match=r"values must be one of .* got 'rows'"):
        prefix_sets(IDS, LENGTHS, GROUPS).mean(torch.ones(2), "rows")


def test_bad_completions_are_named():
    roots = Branches(torch.arange(2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"lengths must lie in \[0, 2\]"):
        branch_sets(IDS, LENGTHS + 1, GROUPS, roots)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_dtypes(dtype):
    branches = Branches(torch.tensor([0, 0]).to(dtype), torch.tensor([0, 1]).to(dtype))
    sets = branch_sets(IDS.to(dtype), LENGTHS.to(dtype), GROUPS.to(dtype), branches)
    assert sets.sizes().tolist() == [[2, 1], [2, 1]]
    assert branch_advantages(torch.tensor([1.0, 0.0]), sets, shrinkage=0.0).tolist() == [
        [0.0, 1.0],
        [0.0, -1.0],
    ]


@given(trees(), st.integers(0, 2))
def test_weights_of_branches_equal_the_definition(tree, extra):
    parents, forks = torch.tensor(tree.parents), torch.tensor(tree.forks)
    width = tree.width + extra
    got = branch_weights(Branches(parents, forks), torch.tensor(tree.groups), width)
    writer = sibling_oracles.by_writers(tree.parents, tree.forks)
    want = sibling_oracles.branch_weights(writer, tree.groups, width)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)
