"""Few collectives, the same on all processes; who fails alone takes the others along."""

import json
import math
from collections import Counter

import collectives
import one_sided_fault
import pytest
import uneven_evaluation
from launching import launch

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Per case, the collectives of both processes."""
    folder = tmp_path_factory.mktemp("counted")
    done = launch(collectives.__file__, str(folder), timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        case: [json.loads((folder / f"{case}.{rank}.json").read_text()) for rank in (0, 1)]
        for case in collectives.CASES
    }


@pytest.mark.parametrize("case", collectives.CASES)
def test_same_order_and_sizes_on_all_processes(counted, case):
    """One has a longer completion than the other, and a group of which it holds two rows."""
    first, second = counted[case]
    assert first == second
    assert first["batch"]


def beyond_stock(counted, case, what):
    """What ours makes and stock GRPO does not."""
    ours, stock = (Counter(map(tuple, counted[name][0][what])) for name in (case, "stock"))
    return sorted((ours - stock).elements())


# The check of rollout_func's completions, the metrics, and three columns of the completions table.
ALWAYS = [("all_gather", 18), ("all_gather_object", 0), ("all_reduce", 14)]
# 6 rows × (3 prompt tokens at most, 8 completion tokens, the length), after the two widths.
TOKEN_IDS = [("all_gather", 2), ("all_gather", 72)]
# The mean of a KL term of ours: TRL's own is of 0 then.
KL_MEAN = ("all_reduce", 2)


@pytest.mark.parametrize("case", ["straddling", "tree", "traces_alone"])
def test_token_ids_are_gathered_once_where_groups_straddle(counted, case):
    assert beyond_stock(counted, case, "batch") == sorted(ALWAYS + TOKEN_IDS)


def test_nothing_is_gathered_where_they_do_not(counted):
    assert beyond_stock(counted, "whole", "batch") == ALWAYS


def test_step_rewards_are_exchanged_once_a_function(counted):
    exchange = [("all_gather_object", 0)] * 2  # what is wrong with them, then the rewards
    assert beyond_stock(counted, "process", "batch") == sorted(ALWAYS + TOKEN_IDS + exchange)


def test_probes_are_exchanged_once(counted):
    """What is wrong with them, whether to pack (by looks, and by a trial of both ways), how many
    passes, the largest number of segments, and log Φ, its place and one flag of each row."""
    whether = [("all_gather_object", 0)] * (1 + 2 + 2 + 1)
    segments = [("all_gather", 1), ("all_gather", 6 * (1 + 2 * 4))]
    assert beyond_stock(counted, "probe", "batch") == sorted(
        ALWAYS + TOKEN_IDS + whether + segments
    )


def test_probes_in_trls_pass_are_exchanged_once(counted):
    """As above, and whether the shared pass may be (by looks, and by a trial) and by whom, with how
    many passes of the trial's other way; that nothing is unknown takes the place of the number."""
    whether = [("all_gather_object", 0)] * (1 + 2 + 2 + 1 + 2 + 1 + 1)
    segments = [("all_gather", 1), ("all_gather", 6 * (1 + 2 * 4))]
    assert beyond_stock(counted, "probe_shared", "batch") == sorted(
        ALWAYS + TOKEN_IDS + whether + segments
    )


def test_a_recorded_batch_is_described_to_the_process_that_writes(counted):
    described = [("all_gather_object", 0)]
    assert beyond_stock(counted, "recorded", "batch") == sorted(ALWAYS + TOKEN_IDS + described)
    assert beyond_stock(counted, "recorded", "loss") == sorted([*described, KL_MEAN])


@pytest.mark.parametrize(
    ("case", "more"),
    [("tree", [KL_MEAN]), ("straddling", [("all_gather", 7), KL_MEAN]), ("default", [])],
)
def test_a_loss_has_stocks_collectives_and_those_of_its_metrics(counted, case, more):
    assert beyond_stock(counted, case, "loss") == more


def test_an_evaluation_that_leaves_a_process_few_prompts_or_none_ends(tmp_path):
    run = launch(uneven_evaluation.__file__, str(tmp_path), timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    for prompts in uneven_evaluation.PROMPTS:
        first, second = (
            json.loads((tmp_path / f"{prompts}.{rank}.json").read_text()) for rank in (0, 1)
        )
        assert first == second
        assert first["eval_process_sets/size"] > 1.0
        assert math.isfinite(first["eval_loss"])


ONE_SIDED = {
    "reward": "RuntimeError: only here: reward",
    "step_rewards": "RuntimeError: only here: step_rewards",
    "empty": "ValueError: rollout_func returned an empty completion for row 0 of 8",
    "steps": "ValueError: The process reward function 'steps' returned 7 entries for 8 completions",
    "td_error": "RuntimeError: only here: td_error",
    "td_error_later": "RuntimeError: only here: td_error_later",
    "td_error_shape": "ValueError: td_error '__main__.main.<locals>.td_error' returned the shape",
}


@pytest.mark.parametrize("fault", ONE_SIDED)
def test_what_one_process_raises_is_raised_by_all(fault, tmp_path):
    run = launch(one_sided_fault.__file__, fault, str(tmp_path), timeout=90)
    assert run.returncode != 0
    other, own = (path.read_text() for path in sorted(tmp_path.glob("*.txt")))
    assert own.startswith(ONE_SIDED[fault])
    assert other == f"RaisedElsewhereError: Process 1 raised {own}"


def test_processes_that_ask_for_log_probs_unequally_often_all_say_so(tmp_path):
    run = launch(one_sided_fault.__file__, "asks_less", str(tmp_path), timeout=90)
    assert run.returncode != 0
    for path in sorted(tmp_path.glob("*.txt")):
        assert "called batch.log_probs more often on one process" in path.read_text()


def test_an_infinite_reward_is_seen_by_all(tmp_path):
    run = launch(one_sided_fault.__file__, "infinite", str(tmp_path), timeout=90)
    assert run.returncode != 0
    first, second = (path.read_text() for path in sorted(tmp_path.glob("*.txt")))
    assert first == second
    assert "'reward' returned inf for completion 8 of the batch" in first


@pytest.mark.parametrize("fault", ["rollout", "reward_model", "loss"])
def test_what_may_itself_be_a_collective_ends_the_launch_with_its_message(fault, tmp_path):
    """The other process may wait anywhere meanwhile: the launcher ends it."""
    run = launch(one_sided_fault.__file__, fault, str(tmp_path), timeout=90)
    assert run.returncode != 0
    assert f"only here: {fault}" in run.stderr
    others = [path.read_text() for path in tmp_path.glob("0.txt")]
    assert not any(fault in text for text in others)  # it did not come to an exchange
