"""Checkpoints without the model card: tests/hub has that, and its plot takes most of a tiny run."""

import pytest

from trl_lambda.hub.hub_trainer import HubTrainer

pytest.register_assert_rewrite("runs")


@pytest.fixture(autouse=True)
def _no_card(monkeypatch):
    monkeypatch.setattr(HubTrainer, "_write_card", lambda self, folder, name: None)
