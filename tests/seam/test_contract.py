"""The contract with TRL, and what happens when TRL breaks it."""

import subprocess
import sys

import pytest
import torch
import trl
from accelerate.utils import gather
from packaging.version import Version
from trl import GRPOTrainer

from trl_lambda.seam.contract import KNOWN_TRL, IncompatibleTRLError, check_seam


def test_the_installed_trl_fits():
    check_seam()


def test_known_versions_cover_the_installed_one():
    oldest, newest = map(Version, KNOWN_TRL)
    assert oldest <= Version(trl.__version__) <= newest


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


class Gone:
    pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (Renamed, r"_calculate_rewards takes \[.*'ids'\], not"),
        (AnotherGather, r"_calculate_rewards has 2 times .*gather"),
        (TwoValues, r"_get_per_token_logps_and_entropies returns 2 values, not 3"),
        (OtherLoss, r"_compute_loss has 0 times .*old_per_token_logps"),
        (Gone, r"Gone\._compute_loss is gone"),
    ],
)
def test_another_trl_is_refused_with_the_versions_that_work(changed, message):
    with pytest.raises(IncompatibleTRLError, match=message) as caught:
        check_seam(changed, "9.9.9")
    assert "trl 9.9.9" in str(caught.value)
    assert "known to work with trl {} to {}: pip install".format(*KNOWN_TRL) in str(caught.value)


def test_a_newer_trl_that_seems_to_fit_gets_a_warning():
    with pytest.warns(UserWarning, match=r"not with 99\.0; nothing it builds on has changed"):
        check_seam(version="99.0")


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
