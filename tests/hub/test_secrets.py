"""What is a secret, by name and by form, and settings without it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, fields

import pytest
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

from trl_lambda import LambdaGRPOConfig
from trl_lambda.hub.redaction import known_secrets, marked, public, secrets_in, without_secrets
from trl_lambda.hub.secrets import (
    PLACEHOLDER,
    environment_secrets,
    holds_secret,
    is_secret_name,
    is_surely_secret_name,
    redacted,
)

NAMES_OF_SECRETS = """
    token hub_token HF_TOKEN use_auth_token authToken access_token password db_password PGPASSWORD
    passwd pwd secret client_secret AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN
    x-api-key X-Api-Key x_goog_api_key apiKey apikey API_KEY_2 wandb_key WANDB_API_KEY openai_key
    OPENAI_API_KEY private_key Authorization Proxy-Authorization auth credentials GH_PAT cookie
    bearer jwt SENTRY_DSN hf_token_value api.key key password_of_mine judgeSecretText
    private_key_pem webhook_url webhook passcode oauth ACCOUNT_KEY api_key_json
"""
OTHER_NAMES = """
    eos_token pad_token stop_token_ids max_new_tokens num_input_tokens bad_words_ids tokenizer
    include_num_input_tokens_seen average_tokens_across_devices sort_key prompt_key answer_key
    ignore_keys_for_eval num_key_value_heads keyword monkey passes forward_pass_count secretary
    tokens_per_second think_end_token cache_key reward_fn_key authors signatures_seen
    image_url base_url model_json
"""


@pytest.mark.parametrize("name", NAMES_OF_SECRETS.split())
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_names_of_other_things(name):
    assert not is_secret_name(name)


def test_of_all_settings_hub_token_alone_has_the_name_of_a_secret():
    classes = (LambdaGRPOConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig)
    names = [f.name for cls in classes for f in fields(cls)]
    assert [name for name in names if is_secret_name(name)] == ["hub_token"]


# (text, the secrets in it)
TEXTS = [
    ("use hf_abcdefghijklmnopqrstuvwx now", ["hf_abcdefghijklmnopqrstuvwx"]),
    ("judge_sk-proj-Ab12_cd34", ["sk-proj-Ab12_cd34"]),
    ("sk-ant-api03-abcdef", ["sk-ant-api03-abcdef"]),
    ("ghp_0123456789abcdefABCDEF0123456789abcd", ["ghp_0123456789abcdefABCDEF0123456789abcd"]),
    ("github_pat_11ABCDEFG0123456789_abc", ["github_pat_11ABCDEFG0123456789_abc"]),
    ("id AKIAIOSFODNN7EXAMPLE.", ["AKIAIOSFODNN7EXAMPLE"]),
    ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None),  # no digit but one: by name alone
    ("wJalrXUtnFE3I/K7MDENG/bPxRfiCYEXAMPLEKEY", ["wJalrXUtnFE3I/K7MDENG/bPxRfiCYEXAMPLEKEY"]),
    ("xoxb-123456789-abc", ["xoxb-123456789-abc"]),
    ("Authorization: Bearer abc.def-123", ["abc.def-123"]),
    ("Authorization: Basic dXNlcjpwdw==", ["dXNlcjpwdw=="]),
    ("bearer abcdefgh", ["abcdefgh"]),
    ("http://me:pw@10.0.0.7:8000/v1", ["me:pw"]),
    ("postgresql+psycopg://me:p@ss@db/x", ["me:p@ss"]),
    ("https://0123456789abcdef@sentry.example/4", ["0123456789abcdef"]),
    ("redis://:pw@cache:6379", [":pw"]),
    ("WANDB_API_KEY=0123456789abcdef", ["0123456789abcdef"]),
    ("export OPENAI_API_KEY='xyz123'", ["xyz123"]),
    ("HF_TOKEN: abc", ["abc"]),
    ('{"api_key": "abc", "n": 1}', ["abc"]),
    ("{'x-api-key': 'abc'}", ["abc"]),
    ("env['DB_PASSWORD'] = 'abc'", ["abc"]),
    ("x-api-key: planted", ["planted"]),
    ("--api-key planted --top_p 0.9", ["planted"]),
    ("--password=planted", ["planted"]),
    ("GET /v1?token=abc&top_k=3&sig=d%2Fe", ["abc", "d%2Fe"]),
    ("password=a, secret=bcd", ["bcd"]),
    ("my password: hunter2", ["hunter2"]),
    ("Authorization: Basic dXNlcjpwYXNz", ["dXNlcjpwYXNz"]),
    ("proxy-authorization=Basic dXNlcjpwYXNz", ["dXNlcjpwYXNz"]),
    ("AccountName=me;AccountKey=abcdefgh123==;", ["abcdefgh123=="]),
    ("SG.abcdefghijklmnop.abcdefghijklmnopqrst", ["SG.abcdefghijklmnop.abcdefghijklmnopqrst"]),
    ("dckr_pat_abcdefghijklmnopqrst", ["dckr_pat_abcdefghijklmnopqrst"]),
    ("dop_v1_0123456789abcdef0123456789abcdef", ["dop_v1_0123456789abcdef0123456789abcdef"]),
    ("hvs.CAESIabcdefghijklmnop", ["hvs.CAESIabcdefghijklmnop"]),
    ("shpat_0123456789abcdef0123456789abcdef", ["shpat_0123456789abcdef0123456789abcdef"]),
    ("tvly-abcdefghijklmnopqr", ["tvly-abcdefghijklmnopqr"]),
    ("post to https://hooks.slack.com/services/T0/B0/Xyz12345", ["T0/B0/Xyz12345"]),
    ("https://discord.com/api/webhooks/123/abcDEF_123", ["123/abcDEF_123"]),
    ("123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1", None),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.sig", None),
    ("-----BEGIN RSA PRIVATE KEY-----\nab\n-----END RSA PRIVATE KEY-----", None),
]


@pytest.mark.parametrize(("text", "secrets"), TEXTS)
def test_secrets_in_texts(text, secrets):
    if secrets is None:
        secrets = [] if text.startswith("wJ") else [text]
    expected = text
    for secret in secrets:
        expected = expected.replace(secret, PLACEHOLDER)
    assert redacted(text) == expected
    assert not holds_secret(redacted(text))


@pytest.mark.parametrize(
    "text",
    [
        "Qwen/Qwen2.5-Math-1.5B",
        "The token: a word of the model's vocabulary. The password: four digits.",
        "Find the key: it opens the door; return key=value pairs.",
        "Secret: think step by step.",
        "basic arithmetic, bearer bonds",
        "Authorization: basic arithmetic is enough. See https://hooks.slack.com/docs.",
        "The account key: none. SG.1, dop_v1, 12:30 at AA",
        "git@github.com:trl-lambda/trl-lambda.git, ssh://git@github.com/x",
        "https://huggingface.co/docs/trl/grpo_trainer#logged-metrics",
        "2f3a4b5c6d7e8f901234567890abcdef12345678",  # a commit
        "max_tokens=256, stop_token_ids=[1, 2]",
        "scikit-learn, task-specific, risk-aversion",
        r"\boxed{} <|im_start|>user",
        "What is 7 * 8? E-mail me@example.com, see http://example.com.",
        "per_device_train_batch_size: 8",
    ],
)
def test_texts_without_secrets(text):
    assert redacted(text) == text


@given(st.text(alphabet="ab1:=?&-_ '\"/@{}\nkey", max_size=60))
def test_redaction_is_final(text):
    once = redacted(text)
    assert redacted(once) == once


def test_known_secrets_are_found_everywhere():
    known = known_secrets({"wandb_key": "0a1b2c3d4e"}, {"url": "http://me:longpassword@host"})
    assert set(known) == {"0a1b2c3d4e", "me:longpassword", "longpassword"}
    assert (
        redacted("run-0a1b2c3d4e by longpassword", known) == f"run-{PLACEHOLDER} by {PLACEHOLDER}"
    )


@dataclass
class Server:
    url: str
    headers: dict = field(default_factory=dict)


class Opaque:
    def __init__(self, inner):
        self.inner = inner


# (settings, the same in public)
SETTINGS = [
    ({"token": "abc", "dtype": "bfloat16"}, {"token": None, "dtype": "bfloat16"}),
    ({"token": True, "a": None}, {"token": True, "a": None}),
    ({"password": 1234}, {"password": None}),
    ({"credentials": {"user": "me", "n": [1]}}, {"credentials": None}),
    ({"headers": {"x-api-key": b"abc"}}, {"headers": {"x-api-key": None}}),
    ({"env": {"WANDB_API_KEY": "a", "HOME": "b"}}, {"env": {"WANDB_API_KEY": None, "HOME": "b"}}),
    (["WANDB_API_KEY=abc", "A=b"], [f"WANDB_API_KEY={PLACEHOLDER}", "A=b"]),
    (["--api-key", "abc", "--n", "3"], ["--api-key", None, "--n", "3"]),
    ([("Authorization", "abc")], [("Authorization", None)]),
    ({"name": "HF_TOKEN", "value": "abc"}, {"name": "HF_TOKEN", "value": None}),
    ({"name": "top_p", "value": "abc"}, {"name": "top_p", "value": "abc"}),
    ({"sk-abcdefgh": 1}, {PLACEHOLDER: None}),
    (["q_proj", "key", "value"], ["q_proj", "key", "value"]),
    ({"a", "sk-abcdefgh"}, {"a", None}),
    (Server("http://me:pw@h", {"token": "a"}), Server(f"http://{PLACEHOLDER}@h", {"token": None})),
]


@pytest.mark.parametrize(("settings", "expected"), SETTINGS, ids=range(len(SETTINGS)))
def test_settings_without_secrets(settings, expected):
    before = pickle.dumps(settings)
    assert public(marked(settings)) == expected
    assert pickle.dumps(settings) == before
    assert secrets_in(marked(expected)) == []


def test_what_has_no_secret_stays_the_same_object():
    opaque, harmless = Opaque("hf_abcdefghijklmnopqrstuvwx"), Opaque("b")
    settings = Opaque({"dtype": torch.bfloat16})
    settings.state, settings.opaque, settings.harmless = PartialState(), opaque, harmless
    settings.password = "abc"
    clean = without_secrets(settings)
    assert clean.inner is settings.inner
    assert clean.state is settings.state
    assert clean.harmless is harmless
    assert clean.opaque is None  # it cannot be looked into, and its pickle shows one
    assert clean.password is None
    assert settings.password == "abc"


def test_the_environments_secrets(monkeypatch):
    monkeypatch.setenv("PLANTED_API_KEY", "abc123")
    monkeypatch.setenv("PLANTED_PATH", "abc456")
    found = environment_secrets()
    assert found["PLANTED_API_KEY"] == "abc123"
    assert "PLANTED_PATH" not in found


def test_surely_is_stronger():
    assert is_surely_secret_name("api_key")
    assert not is_surely_secret_name("key")
