"""Every engine trains with the numbers of one process, under the files of recipes/accelerate."""

import engines
import pytest
import torch
from launching import ENGINES, launch

pytestmark = pytest.mark.distributed
NAMES = sorted(path.stem for path in ENGINES.glob("*.yaml"))
COMPARED = ("loss", "grad_norm", "process_sets/", "trace/gain_", "groups/", "reward", "probe/")
# Means over micro-batches, which are others with other processes: compared where there is one.
OF_A_MICRO_BATCH = ("kl", "entropy", "trace/z_abs_mean", "trace/ratio_clipped")
WITHOUT_PROCESS_SETS = ("default", "trace_and_floor")
# float32 sums in another order. Logged losses are means of means, a little coarser.
CREDIT = {"rtol": 1e-6, "atol": 1e-7}
PARAMETERS = {"rtol": 1e-5, "atol": 2e-6}
LOGGED = {"rel": 1e-4, "abs": 2e-6}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {case: engines.run(case, folder) for case in engines.CASES | engines.NOT_COMPARED}


@pytest.fixture(scope="module", params=NAMES)
def engine(request, tmp_path_factory):
    """(name, results by case and rank), all cases in one launch."""
    folder = tmp_path_factory.mktemp(request.param)
    done = launch(engines.__file__, str(folder), engine=request.param)
    assert done.returncode == 0, done.stderr[-3000:]
    results = {
        case: [torch.load(folder / f"{case}.{rank}.pt") for rank in (0, 1)]
        for case in engines.CASES | engines.NOT_COMPARED
    }
    return request.param, results


def test_all_engines_have_a_file():
    assert NAMES == ["ddp", "fsdp2", "zero2", "zero3"]


@pytest.mark.parametrize("case", engines.CASES)
def test_engine_is_the_one_named(engine, case):
    name, results = engine
    assert [rank["sharding"] for rank in results[case]] == [name, name]


def test_probes_go_along_with_trls_pass_on_all_processes(engine):
    ranks = engine[1]["probe_shared"]
    assert [rank["shares"] for rank in ranks] == [True, True]
    assert [rank["shares"] for rank in engine[1]["probe"]] == [None, None]


@pytest.mark.parametrize("case", engines.CASES)
def test_credit_and_weights_of_each_token(engine, one_process, case):
    _, results = engine
    whole = one_process[case]["credit"]
    assert len(whole) == (2 if engines.CASES[case].get("num_iterations") == 2 else 3)
    for number, tensors in enumerate(whole):
        ranks = [rank["credit"][number] for rank in results[case]]
        weighted = set() if case in WITHOUT_PROCESS_SETS else {"kl_weight"}
        assert set(tensors) == set(ranks[0]) == {"advantages"} | weighted
        for name, expected in tensors.items():
            width = expected.shape[1]
            parts = [
                torch.nn.functional.pad(rank[name], (0, width - rank[name].shape[1]))
                for rank in ranks
            ]
            if case != "default":  # the first process's completions are shorter
                assert ranks[0][name].shape[1] < width
            torch.testing.assert_close(torch.cat(parts), expected, **CREDIT)


@pytest.mark.parametrize("case", engines.CASES)
def test_losses_kl_and_metrics(engine, one_process, case):
    _, results = engine
    names = COMPARED + (OF_A_MICRO_BATCH if case == "no_accumulation" else ())
    for ours, theirs in zip(results[case][0]["logs"], one_process[case]["logs"], strict=True):
        compared = {k: v for k, v in theirs.items() if k.startswith(names)}
        assert {"loss", "grad_norm"} <= set(compared)
        assert {k: ours[k] for k in compared} == pytest.approx(compared, **LOGGED)
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=0.1, abs=1e-6)
    assert one_process[case]["logs"][2]["kl"] > 1e-4  # and it is a number worth comparing


def test_all_that_is_compared_is_logged(one_process):
    """A metric that was renamed would drop out of the comparison in silence."""
    logged = {name for result in one_process.values() for name in result["logs"][0]}
    for name in COMPARED + OF_A_MICRO_BATCH:
        assert any(one.startswith(name) for one in logged), name


@pytest.mark.parametrize("case", engines.CASES)
def test_parameters_after_three_steps(engine, one_process, case):
    _, results = engine
    found, expected = results[case][0]["parameters"], one_process[case]["parameters"]
    assert found.keys() == expected.keys()
    start = engines.tiny.model().state_dict()
    moved = max((expected[name] - start[name]).abs().max() for name in expected)
    assert moved > 1000 * PARAMETERS["atol"]
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **PARAMETERS)


def test_bnpo_depends_on_the_processes_in_trl_as_here(engine, one_process):
    """Without credit ours is stock GRPO under each engine, and neither is that of one process."""

    def parameters(result):
        return torch.cat([value.flatten() for _, value in sorted(result["parameters"].items())])

    alone, stock_alone = (parameters(one_process[case]) for case in engines.NOT_COMPARED)
    ours, stock = (parameters(engine[1][case][0]) for case in engines.NOT_COMPARED)
    torch.testing.assert_close(alone, stock_alone, **PARAMETERS)
    torch.testing.assert_close(ours, stock, **PARAMETERS)
    assert (stock - stock_alone).abs().max() > 50 * PARAMETERS["atol"]
