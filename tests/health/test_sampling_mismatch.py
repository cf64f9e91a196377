"""The warning of an engine that samples from other weights, on scripted logs."""

import logging
import math
from types import SimpleNamespace

import pytest
import tiny
from accelerate import PartialState

from trl_lambda.health.sampling_mismatch import DIFFERENCE, SamplingMismatchWarning

PartialState()  # accelerate's logger needs it


@pytest.fixture
def warned(caplog):
    """Steps at which a run with these differences is warned about; None logs none."""

    def run(differences, **options):
        callback = SamplingMismatchWarning(**options)
        steps = []
        with caplog.at_level(logging.WARNING, "trl_lambda.sampling_mismatch"):
            for step, difference in enumerate(differences, 1):
                caplog.clear()
                logs = {"loss": 0.0} if difference is None else {DIFFERENCE: difference}
                callback.on_log(None, SimpleNamespace(global_step=step), None, logs=logs)
                steps += [step] * len(caplog.records)
        return steps

    return run


@pytest.mark.parametrize(
    ("differences", "steps"),
    [
        ([0.002, 0.003, 0.05, 0.09, 0.04, 0.09, 0.09], []),  # rounding, on a policy that moves
        ([0.2, 0.25, 0.3, 0.4, 0.45, 0.4], []),  # noisy from the start: experts, float8
        ([0.002, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6], [5]),  # never synced
        ([0.002, 0.2, 0.3, 0.01, 0.2, 0.3, 0.01], []),  # comes back within the patience
        ([0.002, 0.2, 0.2, 0.2, 0.01, 0.2, 0.2, 0.2, 0.2], [4, 8]),  # two stretches
        ([0.03, 0.12, 0.12, 0.12, 0.16, 0.16, 0.16], [7]),  # five times the first
        ([2.0, 2.1, 1.9, 2.0, 2.0], [3]),  # another model
        ([0.002, 0.2, None, 0.2, None, 0.2], [6]),  # steps without new completions
        ([0.002, math.nan, math.nan, math.nan], [4]),
        ([math.inf] * 3, [3]),
    ],
)
def test_when_it_warns(warned, differences, steps):
    assert warned(differences) == steps


def test_its_thresholds_can_be_set(warned):
    assert warned([0.01, 0.03, 0.03], noticeable=0.02, growth=2.0, patience=2) == [3]
    assert warned([0.3, 0.3], large=0.2, patience=1) == [1]


def test_the_message_has_the_numbers_and_what_to_check(caplog):
    callback = SamplingMismatchWarning(patience=1)
    for step, difference in ((1, 0.002), (2, 0.25)):
        callback.on_log(
            None, SimpleNamespace(global_step=step), None, logs={DIFFERENCE: difference}
        )
    [message] = [record.getMessage() for record in caplog.records]
    assert "Step 2: vLLM seems to sample from other weights than the trainer's" in message
    assert "is 0.25 per token" in message
    assert "was 0.002 in the first" in message
    assert "the weight sync does not arrive" in message


def test_the_trainer_watches_only_with_vllm(tmp_path):
    watchers = tiny.trainer(tmp_path).callback_handler.callbacks
    assert not any(isinstance(one, SamplingMismatchWarning) for one in watchers)
