"""The loopback Hub, with the client pointed at it for one test."""

from __future__ import annotations

import time
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.hf_api
import huggingface_hub.utils._http
import pytest
import transformers.utils.hub
from loopback_hub import TOKEN, LoopbackHub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running Hub. The client reads its constants from the environment at import, so both are
    set: the constants for this process, the environment for those it starts."""
    with LoopbackHub() as server:
        environment = {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_HUB_OFFLINE": "0",
            # Else the client asks for a token of Xet, which is another protocol than this.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # Clients made before: one of huggingface_hub's, one of transformers'.
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        # The client waits up to half a minute between its retries: it may retry at once here.
        at_once = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
        monkeypatch.setattr(huggingface_hub.utils._http, "time", at_once)
        huggingface_hub.utils._http.close_session()
        yield server
    huggingface_hub.utils._http.close_session()
