"""Branched groups in the credit log: from the rollout to the file, the reader and the tree."""

from __future__ import annotations

import json
import random

import pytest
import sibling_oracles
import tiny
from recording import COMPLETIONS, lines, records, run

from trl_lambda.credit_log.forks import is_copy, token_count, writer
from trl_lambda.report import load_run
from trl_lambda.report.tree import prefix_tree

UNSET = dict.fromkeys(["trace_style", "process_set_weighting", "advantage_floor"])
BRANCH = {"method": "branch", **UNSET, "loss_type": None, "scale_rewards": None}
SIZES = {"num_generations": 8, "per_device_train_batch_size": 16, "max_completion_length": 12}


def branched_run(folder, **settings):
    """Two groups of eight in each of two records; the rollouts of both."""
    settings = BRANCH | SIZES | {"credit_log_steps": 1, "max_steps": 2} | settings
    trainer = tiny.trainer(folder, settings=settings)
    rollouts, score = [], trainer._generate_and_score_completions

    def noted(inputs):
        output = score(inputs)
        rollouts.append(trainer._rollout)
        return output

    trainer._generate_and_score_completions = noted
    trainer.train()
    return rollouts


def origins(group):
    return [(row["parent"], row["fork"]) for row in group["completions"]]


def members_in_the_tree(completions):
    """For each completion and token the completions in its box."""
    boxes = {}
    for branch in prefix_tree(completions):
        for row in branch.rows:
            for token in range(branch.start, branch.end):
                boxes[row, token] = branch.rows
    return boxes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"branch_levels": 2, "branch_roots": 2},
        {"branch_forks": "even", "branch_at": "fraction"},
        {"mask_truncated_completions": True},
    ],
    ids=str,
)
def test_parents_and_forks_are_those_of_the_rollout(tmp_path, settings):
    rollouts = branched_run(tmp_path, **settings)
    groups = load_run(tmp_path).groups
    assert len(groups) == 2 * len(rollouts) == 4
    kinds = set()
    for number, group in enumerate(groups):
        rollout, first = rollouts[number // 2], 8 * (number % 2)
        rows = range(first, first + 8)
        assert origins(group) == [(rollout.parent[i] - first, rollout.fork[i]) for i in rows]
        for i, row in zip(rows, group["completions"], strict=True):
            assert row["ids"] in (rollout.completion_ids[i], [])  # none where it is masked out
            assert row["update"] is not None
            kinds.add("copy" if is_copy(row) else "fork" if row["fork"] else "root")
    assert kinds >= {"root", "fork"}


@pytest.mark.parametrize("settings", [{}, {"branch_levels": 2, "branch_roots": 2}], ids=str)
def test_the_tree_is_that_of_the_rollout(tmp_path, settings):
    """Its boxes are the process sets that the credit was made of, by size and by members."""
    rollouts = branched_run(tmp_path, top_k=2, **settings)  # tokens agree by chance, too
    by_chance = 0
    for number, group in enumerate(load_run(tmp_path).groups):
        rows, rollout = group["completions"], rollouts[number // 2]
        token = sibling_oracles.by_writers(rollout.parent, rollout.fork)
        first, groups = 8 * (number % 2), [0] * 8 + [1] * 8
        boxes = members_in_the_tree(rows)
        for i, row in enumerate(rows):
            for t, size in enumerate(row["size"]):
                sharing = sibling_oracles.members(token, groups, first + i, t + 1)
                want = [j - first for j in sharing if len(rows[j - first]["ids"]) > t]
                assert sorted(boxes[i, t]) == want
                assert len(want) == size
                assert writer(rows, i, t) == token(first + i, t) - first
        plain = [{k: v for k, v in row.items() if k not in ("parent", "fork")} for row in rows]
        by_chance += prefix_tree(plain) != prefix_tree(rows)
    assert by_chance  # equal tokens would draw another tree


def test_independent_groups_have_neither(tmp_path):
    run(tmp_path, credit_log_steps=1, max_steps=1)
    rows = [row for group in records(tmp_path)[0] for row in group["completions"]]
    assert not any("parent" in row or "fork" in row for row in rows)
    assert [row["ids"] for row in load_run(tmp_path).groups[0]["completions"]] == COMPLETIONS[:4]


def test_a_cut_leaves_parents_and_forks_as_they_were(tmp_path):
    (rollout,) = branched_run(
        tmp_path,
        max_steps=1,
        max_completion_length=90,
        credit_log_max_mb=0.02,
        branch_at="fraction",
        generation_kwargs={"suppress_tokens": [tiny.PAD, tiny.EOS]},
    )
    groups = load_run(tmp_path).groups
    boxes = [members_in_the_tree(group["completions"]) for group in groups]
    for number, group in enumerate(groups):
        first = 8 * number
        for i, row in enumerate(group["completions"]):
            assert row["cut"]["tokens"] > 60
            assert (row["parent"], row["fork"]) == (
                rollout.parent[first + i] - first,
                rollout.fork[first + i],
            )
            assert token_count(row) == 90
            assert {token for other, token in boxes[number] if other == i} == set(range(90))
            assert boxes[number][i, 89] == (i,)
    inside = [row["fork"] > row["cut"]["at"] for g in groups for row in g["completions"]]
    assert any(inside)  # forked in what was left out


# Logs that no rollout wrote.


def made(*rows):
    """A group of (parent, fork, tokens)."""
    rng = random.Random(0)
    completions = []
    for i, (parent, fork, tokens) in enumerate(rows):
        values = {name: [0.5] * tokens for name in ("advantage", "weight", "trace_weight")}
        values |= {"mask": [1] * tokens, "size": [1] * tokens, "pieces": ["a"] * tokens}
        ids = [rng.randrange(9) for _ in range(tokens)]
        row = {"row": f"1-{i}", "reward": 1.0, "group_advantage": 0.0, "ids": ids, **values}
        completions.append(row | {"parent": parent, "fork": fork})
    about = {"kind": "group", "id": "1", "step": 1, "mode": "train", "prompt": "p"}
    return about | {"completions": completions}


def written(folder, group):
    run(folder, credit_log_steps=1, max_steps=1)
    path = folder / "credit_log" / "records-00000.jsonl"
    about = {"run_id": lines(folder)[0]["run_id"]}
    path.write_text(json.dumps(group | about) + "\n")
    return folder


def test_by_hand(tmp_path):
    # Two roots; a fork of a fork; a copy; one that was masked out as truncated, and its fork.
    group = made((0, 0, 6), (0, 2, 5), (1, 4, 6), (0, 6, 6), (4, 0, 0), (4, 3, 7))
    (read,) = load_run(written(tmp_path, group)).groups
    rows = read["completions"]
    assert [is_copy(row) for row in rows] == [False, False, False, True, False, False]
    assert [writer(rows, 2, t) for t in range(6)] == [0, 0, 1, 1, 2, 2]
    assert {(b.start, b.end, b.rows, b.parent) for b in prefix_tree(rows)} == {
        (0, 0, (0, 1, 2, 3, 4, 5), None),
        (0, 2, (0, 1, 2, 3), 0),
        (2, 6, (0, 3), 1),
        (2, 4, (1, 2), 1),
        (4, 5, (1,), 3),
        (4, 6, (2,), 3),
        (0, 7, (5,), 0),
    }


FAULTS = {
    "of another group": ([(0, 0, 3), (2, 1, 3)], r"row 1-1: parent must be .* \[0, 2\), got 2"),
    "no number": ([(0, 0, 3), ("<b>", 1, 3)], "row 1-1: parent must be .*'<b>'"),
    "no parent": ([(0, 0, 3), (None, 1, 3)], "row 1-1: parent must be .*None"),
    "no fork": ([(0, 0, 3), (0, None, 3)], "row 1-1: fork must be .*None"),
    "true": ([(0, 0, 3), (0, True, 3)], "row 1-1: fork must be .*True"),
    "below 0": ([(0, 0, 3), (0, -1, 3)], "row 1-1: fork must be .*-1"),
    "a root with a fork": ([(0, 2, 3), (0, 1, 3)], "row 1-0: fork must be .*2"),
    "behind its end": ([(0, 0, 3), (0, 3, 2)], "row 1-1: fork is 3, and it has 2 tokens"),
    "behind the parent's": ([(0, 0, 2), (0, 3, 5)], "row 1-1: fork is 3, and parent has 2 tokens"),
    "a circle": ([(1, 1, 3), (0, 1, 3)], "row 1-0: it comes from itself"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_is_named_with_its_place(tmp_path, name):
    rows, said = FAULTS[name]
    written(tmp_path, made(*rows))
    with pytest.raises(ValueError, match=rf"records-00000\.jsonl, line 1: {said}"):
        load_run(tmp_path)


@pytest.mark.parametrize("cut", [3, {"at": 1}, {"at": 9, "tokens": 2}, {"at": 0, "tokens": "2"}])
def test_a_cut_that_cannot_be_is_named_too(tmp_path, cut):
    group = made((0, 0, 3))
    group["completions"][0]["cut"] = cut
    written(tmp_path, group)
    with pytest.raises(ValueError, match=r"records-00000\.jsonl, line 1: "):
        load_run(tmp_path)
