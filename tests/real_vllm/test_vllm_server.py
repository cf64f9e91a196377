"""Training on completions of a real `vllm serve`.

TRL sends weights to a server over NCCL, between GPUs: that is recorded here by a stub and does not
run, so the server keeps the weights it started with.
"""

import math

import psutil
import pytest
import tiny
import torch
from served import serving

pytestmark = pytest.mark.vllm
WATCH = "trl_lambda.health.sampling_mismatch"
DIFFERENCE = "sampling/sampling_logp_difference/mean"


@pytest.fixture(scope="module")
def server(folders, tmp_path_factory):
    with serving(folders["tied"], tmp_path_factory.mktemp("server") / "log.txt") as (url, pid):
        yield url
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.fixture
def sent(monkeypatch):
    """What TRL would have sent over NCCL: for each sync the names and the values."""
    from trl.generation.vllm_client import VLLMClient

    syncs = []

    def record(client, metadata, named_params):
        values = {name: value.detach().clone() for name, value in named_params}
        assert [name for name, _, _ in metadata] == list(values)
        syncs.append(values)

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda client, device: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", record)
    return syncs


@pytest.fixture
def make_server_trainer(server, sent, make_trainer):
    def make(**settings):
        mode = {"vllm_mode": "server", "vllm_server_base_url": server}
        return make_trainer(settings=mode | settings)

    return make


@pytest.mark.parametrize(
    ("trace", "mode"),
    [
        ("none", "token_truncate"),
        ("advantage", "token_mask"),
        ("ratio", "sequence_truncate"),
        ("weight", "sequence_mask"),
    ],
)
def test_training_on_a_servers_completions(make_server_trainer, sent, trace, mode):
    traced = {"trace_style": "none"} if trace == "none" else {"trace_mode": trace}
    trainer = make_server_trainer(
        **traced,
        vllm_importance_sampling_mode=mode,
        num_iterations=2,
        beta=0.04,
        max_steps=4,
        learning_rate=1e-3,
    )
    seen, start = tiny.capture_inputs(trainer), tiny.parameters(trainer)
    trainer.train()
    assert not torch.equal(tiny.parameters(trainer), start)
    assert len(sent) == 2  # one before each batch of completions
    logs = trainer.state.log_history
    assert all(math.isfinite(value) for log in logs for value in log.values())
    fresh, stale = (log[DIFFERENCE] for log in logs if DIFFERENCE in log)
    assert fresh < 0.01  # the weights that both started with
    assert stale > 2 * fresh  # the server's are two updates old: no sync here
    for inputs in seen:
        ratio, T = inputs["importance_sampling_ratio"], inputs["completion_mask"].shape[1]
        assert ratio.shape == (8, T if mode.startswith("token") else 1)
        assert (ratio != 1).any()


def test_each_sync_is_sent_the_weights_of_its_step(make_server_trainer, sent):
    trainer = make_server_trainer(max_steps=2, learning_rate=1e-2)
    names = [name for name, _ in trainer.model.named_parameters()]
    trainer.train()
    first, second = sent
    assert list(first) == names
    assert all(not torch.equal(first[name], second[name]) for name in names)
    trainer.vllm_generation.sync_weights()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(sent[-1][name], value)


def test_weights_that_stay_behind_are_reported(make_server_trainer, caplog):
    make_server_trainer(max_steps=12, learning_rate=1e-2).train()
    messages = [r.getMessage() for r in caplog.records if r.name == WATCH]
    assert len(messages) == 1
    assert "vLLM seems to sample from other weights" in messages[0]


def test_without_a_gpu_trl_says_that_it_cannot_send_weights(server, make_trainer):
    """The stub stands for this."""
    settings = {"vllm_mode": "server", "vllm_server_base_url": server}
    with pytest.raises(NotImplementedError, match="needs a CUDA device, got 'cpu"):
        make_trainer(settings=settings)


def test_branched_groups_of_a_server(make_server_trainer):
    unset = dict.fromkeys(["trace_style", "process_set_weighting", "advantage_floor"])
    trainer = make_server_trainer(
        method="branch",
        **unset,
        loss_type=None,
        scale_rewards=None,
        max_completion_length=24,
        max_steps=1,
        learning_rate=0.0,
    )
    trainer.train()
    rollout = trainer._rollout
    assert rollout.counts().forks
    assert max(map(len, rollout.completion_ids)) <= 24
    for row, (parent, fork) in enumerate(zip(rollout.parent, rollout.fork, strict=True)):
        assert rollout.completion_ids[row][:fork] == rollout.completion_ids[parent][:fork]
    (log,) = [log for log in trainer.state.log_history if DIFFERENCE in log]
    assert log[DIFFERENCE] < 0.01
