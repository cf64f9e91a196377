"""The contract with TRL, and what happens when TRL breaks it."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
import trl
from accelerate.utils import gather
from packaging.requirements import Requirement
from packaging.version import Version
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer
from trl_lambda.seam import contract, liger
from trl_lambda.seam.contract import DEMANDS, KNOWN_TRL, Demand, IncompatibleTRLError, check_seam
from trl_lambda.seam.liger import refuse_liger_loss

ROOT = Path(__file__).parents[2]
INSTALLED = Version(trl.__version__)
Values = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
LOGPS = "_get_per_token_logps_and_entropies"


# -- the installed TRL -------------------------------------------------------------------------


def test_the_installed_trl_fits():
    check_seam()


def test_known_versions_cover_the_installed_one():
    oldest, newest = map(Version, KNOWN_TRL)
    assert oldest <= INSTALLED <= newest


def test_our_own_methods_replace_none_of_trl():
    """But for those that the contract names."""
    ours = {name for cls in LambdaGRPOTrainer.__mro__ for name in own_names(cls)}
    meant = {demand.name for demand in DEMANDS} | {"train", "_name", "_tag_names"}
    hub = {
        "add_callback",
        "create_model_card",
        "init_hf_repo",
        "push_to_hub",
        "save_model",
        "_push_from_checkpoint",
    }
    assert ours & set(dir(GRPOTrainer)) <= meant | hub


def own_names(cls: type) -> set[str]:
    if not cls.__module__.startswith("trl_lambda"):
        return set()
    return {name for name in vars(cls) if not re.fullmatch(r"__\w+__", name)}


# -- the versions ------------------------------------------------------------------------------


def test_the_package_asks_for_the_versions_that_are_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bound = next(r for r in map(Requirement, project["dependencies"]) if r.name == "trl").specifier
    oldest, newest = map(Version, KNOWN_TRL)
    assert oldest in bound
    assert f"{newest.major}.{newest.minor}.9" in bound
    assert f"{newest.major}.{newest.minor + 1}.0" not in bound
    assert f"{oldest.major}.{oldest.minor - 1}.9" not in bound


@pytest.mark.parametrize(
    ("version", "held"),
    [
        ("1.11.0", False),
        ("1.13.9", False),
        ("1.14.0.dev0", True),  # counts as the release it precedes
        ("1.14", True),
        ("1.14.2", True),
        ("1.15.0", False),
        ("99.0", False),
    ],
)
def test_a_demand_holds_from_one_version_to_another(version, held):
    assert Demand("method", since="1.14", before="1.15").holds_for(version) is held
    assert Demand("method").holds_for(version)


@pytest.mark.parametrize("version", ["1.11.0", "1.12.0", "1.13.0", "1.14.2", "1.15.0", "1.16.0"])
def test_each_version_is_held_to_one_form_of_each_method(version):
    """Forms that are told apart by version neither overlap nor leave a version out."""
    held = [demand for demand in DEMANDS if demand.holds_for(version)]
    parameters = Counter(demand.name for demand in held if demand.parameters)
    assert set(parameters.values()) == {1}
    below = {"_full_logits_logps", "_chunked_logps"} if version != "1.14.2" else set()
    assert {demand.name for demand in held} == {demand.name for demand in DEMANDS} - below


class Dispatching(GRPOTrainer):
    """As TRL 1.14 computes log-probabilities, whichever is installed."""

    def _get_per_token_logps_and_entropies(
        self, model, *args, batch_size=None, compute_aux_loss=False, **kwargs
    ):
        if compute_aux_loss:
            return self._full_logits_logps(model, *args, batch_size=batch_size, **kwargs)
        if model is None:
            return self._forward_redirection(model, self._chunked_logps, *args, **kwargs)
        return self._chunked_logps(model, *args, **kwargs)

    def _full_logits_logps(self, model, input_ids, attention_mask, logits_to_keep) -> Values:
        raise NotImplementedError

    def _chunked_logps(self, model, input_ids, attention_mask, logits_to_keep) -> Values:
        raise NotImplementedError


class Direct(GRPOTrainer):
    """As every other version does."""

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep
    ) -> Values:
        raise NotImplementedError


class TwoBelow(Dispatching):
    def _chunked_logps(
        self, model, input_ids, attention_mask, logits_to_keep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def logps_faults(cls: type, version: str) -> list[str]:
    """What the demands on log-probabilities find."""
    names = (LOGPS, "_full_logits_logps", "_chunked_logps")
    demands = [d for d in DEMANDS if d.name in names and d.holds_for(version)]
    return [fault for demand in demands for fault in demand.faults({"trainer": cls})]


def test_log_probabilities_are_held_to_the_form_of_their_version():
    assert logps_faults(Dispatching, "1.14.2") == []
    assert logps_faults(Direct, "1.13.0") == logps_faults(Direct, "1.15.0") == []
    for version in ("1.13.0", "1.15.0"):
        takes, returns = logps_faults(Dispatching, version)
        assert takes.startswith(f"{LOGPS} takes ['self', 'model', 'args',")
        assert returns == f"{LOGPS} returns 0 values, not 3"
    assert any("takes ['self', 'model', 'input_ids'" in f for f in logps_faults(Direct, "1.14.0"))
    assert logps_faults(TwoBelow, "1.14.2") == ["_chunked_logps returns 2 values, not 3"]


# -- another TRL -------------------------------------------------------------------------------


class Renamed(GRPOTrainer):
    def _calculate_rewards(self, inputs, prompts, completions, ids):
        return None


class AnotherGather(GRPOTrainer):
    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards_per_func = torch.zeros(len(prompts), len(self.reward_funcs))
        return self.accelerator.gather(gather(rewards_per_func))


class TwoValues(GRPOTrainer):
    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return None, None


class OtherLoss(GRPOTrainer):
    def _compute_loss(self, model, inputs):
        logps, _, _ = self._get_per_token_logps_and_entropies(model, inputs)
        return (logps * inputs["advantages"]).sum()


class PastTheLoss(GRPOTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.use_liger_kernel:
            return self.compute_liger_loss(model, inputs)
        return self._compute_loss(model, inputs)


class WithoutReference(GRPOTrainer):
    def __init__(self, model):
        self.model = model


class Gone:
    pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (Renamed, r"_calculate_rewards takes \[.*'ids'\], not"),
        (AnotherGather, r"_calculate_rewards has 2 times .*gather"),
        (TwoValues, r"_get_per_token_logps_and_entropies returns 2 values, not 3"),
        (OtherLoss, r"_compute_loss has 0 times .*old_per_token_logps"),
        (PastTheLoss, r"compute_loss has 1 times .*compute_liger_loss.*, not 0"),
        (WithoutReference, r"__init__ has 0 times .*ref_model.*, not some"),
        (Gone, r"Gone\._compute_loss is gone"),
    ],
)
def test_another_trl_is_refused_with_the_versions_that_work(changed, message):
    with pytest.raises(IncompatibleTRLError, match=message) as caught:
        check_seam(changed, "9.9.9")
    assert "trl 9.9.9" in str(caught.value)
    assert "known to work with trl {} to {}: pip install".format(*KNOWN_TRL) in str(caught.value)


def test_a_trl_that_cannot_name_the_weights_for_vllm_is_refused():
    """TRL 1.10, say, which sends them one by one."""
    with pytest.raises(IncompatibleTRLError, match=r"Gone\._iter_named_params is gone"):
        check_seam(version="1.10.0", generation_class=Gone)


@pytest.mark.parametrize("tried", [("0.1", "0.2"), ("99.0", "99.1")], ids=["newer", "older"])
def test_a_trl_outside_the_versions_that_seems_to_fit_gets_a_warning(tried, monkeypatch):
    monkeypatch.setattr(contract, "KNOWN_TRL", tried)
    message = f"not with {trl.__version__}; nothing it builds on has changed"
    with pytest.warns(UserWarning, match=re.escape(message)):
        check_seam()


@pytest.mark.slow
def test_the_check_runs_at_import():
    """In a process of its own, where TRL lacks what we build on, the import fails."""
    program = (
        "import trl\n"
        "del trl.GRPOTrainer._calculate_rewards\n"
        "from trl_lambda import LambdaGRPOTrainer\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode != 0
    assert "IncompatibleTRLError: trl_lambda does not fit trl" in run.stderr
    assert "GRPOTrainer._calculate_rewards is gone" in run.stderr


# -- Liger's own loss --------------------------------------------------------------------------


class WithLigerLoss(GRPOTrainer):
    """TRL before 1.14."""

    def compute_liger_loss(self, unwrapped_model, inputs):
        raise NotImplementedError


class WithoutLigerLoss:
    """TRL since."""


def test_ligers_own_loss_is_refused_where_trl_has_it(monkeypatch):
    monkeypatch.setattr(liger, "GRPOTrainer", WithLigerLoss)
    with pytest.raises(ValueError, match=r"use_liger_kernel=True: .*whole loss.*\"trl>=1\.14\""):
        refuse_liger_loss(SimpleNamespace(use_liger_kernel=True))
    refuse_liger_loss(SimpleNamespace(use_liger_kernel=False))
    monkeypatch.setattr(liger, "GRPOTrainer", WithoutLigerLoss)
    refuse_liger_loss(SimpleNamespace(use_liger_kernel=True))


def test_the_trainer_refuses_it_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(liger, "GRPOTrainer", WithLigerLoss)
    with pytest.raises(ValueError, match="Liger computes the whole loss"):
        tiny.trainer(tmp_path, settings={"use_liger_kernel": True})


def test_this_trl_has_ligers_own_loss_as_its_version_says():
    assert hasattr(GRPOTrainer, "compute_liger_loss") == (Version("1.14") > INSTALLED)
