"""Tells secrets by the name that they stand under, or by their own form.

Names are `x-api-key`, `WANDB_API_KEY`, `password`; forms are `hf_…`, `sk-…`, a bearer header, a
password in a URL, `api_key=…` inside a text. A secret that is published is worse than a setting
that is left out, so where both may be meant it is a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

PLACEHOLDER = "SECRET-LEFT-OUT"  # nothing in it means something to YAML, Markdown or a URL

# -- names -------------------------------------------------------------------------------------


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The last words of names: what stands under the first is never shown, under the second no text.
# For the sure ones the end of a word is enough: PGPASSWORD.
_SURE = ("password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "credential")
_SURE += ("credentials", "authorization", "apikey", "secretkey", "accesskey", "privatekey")
_SURE += ("accesstoken", "authtoken", "passcode")
_LIKELY = _words_of(
    "token tokens key keys auth oauth pass pat jwt cookie cookies bearer dsn webhook sig signature"
)
# The words before a likely one that make it sure.
_SURE_BEFORE = _words_of(
    "api access secret private auth authentication bearer hf hub wandb openai anthropic github "
    "session refresh signing encryption license aws azure account shared"
)
# Tokens of a vocabulary, and keys of a table: not those of a door.
_HARMLESS_BEFORE = _words_of(
    "eos bos pad unk sep cls mask stop start end begin special image video audio vision think "
    "thinking new max min num prompt completion input output tool forced suppress boi eoi extra "
    "additional bad target word byte control turn im answer reasoning response "
    "sort primary public foreign cache problem text label data dataset column message messages "
    "group metric reward fn solution gold field past ignore missing unexpected query first last "
    "second"
)
# Words that may follow: AWS_ACCESS_KEY_ID, API_KEY_2, webhook_url.
_AFTER = _words_of("id ids value header str text env b64 base64 pem json url")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret_name(name: str) -> bool:
    """Whether a text under this name is a secret."""
    words = _words(name)
    if is_surely_secret_name(name) or any(word.endswith(_SURE) for word in words):
        return True
    return bool(words) and words[-1] in _LIKELY and not _HARMLESS_BEFORE & set(words[:-1])


def is_surely_secret_name(name: str) -> bool:
    """Whether a value of any type under this name is a secret."""
    words = _words(name)
    if not words or words[-1].endswith(_SURE):
        return bool(words)
    return words[-1] in _LIKELY and len(words) > 1 and words[-2] in _SURE_BEFORE


def _words(name: str) -> list[str]:
    """`x-api-key`, `xApiKey` and `X_API_KEY_2` are x, api, key."""
    words = [word.lower() for word in _WORDS.findall(name[:200])]
    while len(words) > 1 and (words[-1] in _AFTER or words[-1].isdigit()):
        words.pop()
    return words


# -- texts -------------------------------------------------------------------------------------

_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{6,}|[srp]k_(?:live|test)_[A-Za-z0-9]{8,}"  # OpenAI and others; Stripe
    r"|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{10,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,}|ya29\.[\w-]{10,}"  # AWS, Google
    r"|xox[a-z]-[\w-]{8,}|npm_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}"  # Slack, npm, PyPI
    r"|(?:gsk|r8)_[A-Za-z0-9]{16,}|(?:xai|nvapi|pplx)-[\w-]{16,}|wandb_v\d_\w{16,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|dckr_pat_[\w-]{16,}|do[opr]_v1_[0-9a-f]{32,}"  # SendGrid, …
    r"|hv[sb]\.[\w-]{16,}|shp[a-z]{2}_[0-9a-f]{32}|tvly-[\w-]{16,}"  # Vault, Shopify, Tavily
    r"|[0-9]{8,10}:AA[\w-]{30,}"  # Telegram
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web tokens
    r")"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_BEARER = re.compile(r"\bbearer\s+([A-Za-z0-9._~+/=-]{6,})", re.I)
_BASIC = re.compile(
    r"(?i:authorization[\"'\]]{0,2}\s?[=:]\s{0,9}[\"']?basic)\s+"
    r"(?=[a-z+/=]*[A-Z0-9])([A-Za-z0-9+/=]{8,})"
)
# The path of a webhook is all that it takes to post there.
_WEBHOOK = re.compile(
    r"//(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/"
    r"([\w-]+/[\w/-]+)"
)
_IN_URL = re.compile(r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9+.-]{0,20})://([^/\s\"'<>]{1,2000})@")
# A secret key of AWS: 30 random bytes in base64.
_RANDOM = re.compile(r"(?<![\w/+.~-])[A-Za-z0-9+][A-Za-z0-9/+]{39}(?![\w/+.~-])")
# Names in texts, each with what may stand between it and its value.
_ASSIGNED = re.compile(
    r"(?P<before>[?&]|(?<![\w.-])-{0,2})(?P<name>[A-Za-z][\w.-]{0,80})[\"'\]]{0,2}"
    r"(?P<sign>\s?[=:]\s{0,9}|(?<=[\w.-])\s{1,9})[\"']?",
)
_VALUE = re.compile(r"(?:(?:basic|bearer|token)\s+)?([^\s\"'&,;<>(){}\[\]]+)", re.I)


def secret_parts(text: str, known: Iterable[str] = ()) -> list[tuple[int, int]]:
    """[start, end) of each secret in a text, in order and apart from each other.

    Args:
        known: texts that are secrets wherever they stand.
    """
    spans = _of_a_form(text)
    for pattern in (_BEARER, _BASIC, _WEBHOOK):
        spans += [match.span(1) for match in pattern.finditer(text)]
    spans += [match.span(2) for match in _IN_URL.finditer(text) if _opens_a_door(match)]
    spans += [match.span() for match in _RANDOM.finditer(text) if _is_mixed(match[0])]
    spans += _assigned(text)
    for secret in known:
        spans += [match.span() for match in re.finditer(re.escape(secret), text)]
    return [(start, end) for start, end in _joined(spans) if text[start:end] != PLACEHOLDER]


def holds_secret(text: str, known: Iterable[str] = ()) -> bool:
    return bool(secret_parts(text, known))


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """The text with `SECRET-LEFT-OUT` in the place of each secret."""
    kept, last = [], 0
    for start, end in secret_parts(text, known):
        kept += [text[last:start], PLACEHOLDER]
        last = end
    return "".join([*kept, text[last:]])


def shows_secret(pickled: bytes, known: Iterable[str] = ()) -> bool:
    """Whether bytes hold a secret that cannot be anything else."""
    return bool(_of_a_form(pickled.decode("latin-1"))) or any(
        secret.encode() in pickled for secret in known
    )


def environment_secrets() -> dict[str, str]:
    """Variables of the environment that are secrets by their name."""
    named = {name: value for name, value in os.environ.items() if is_secret_name(name)}
    # PWD is a folder, and others name a file; a sentence is no secret.
    return {n: v for n, v in named.items() if not re.search(r"\s", v) and not os.path.exists(v)}


def _of_a_form(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _FORMS.finditer(text)]


def _opens_a_door(url: re.Match) -> bool:
    """user:password; under http a user alone is a token."""
    return ":" in url[2] or url[1].lower() in ("http", "https")


def _is_mixed(text: str) -> bool:
    """A hash in hex has small letters alone, a word few digits."""
    return all(re.search(kind, text) for kind in (r"[A-Z]", r"[a-z]", r"[0-9].*[0-9]"))


def _assigned(text: str) -> list[tuple[int, int]]:
    """The values of `api_key=…`, `"x-api-key": …`, `--password …` and `?token=…`."""
    spans, position = [], 0
    while match := _ASSIGNED.search(text, position):
        position = match.end("name")  # a value may be the next one's name
        looks = _look_of_value(match) if is_secret_name(match["name"]) else None
        value = _VALUE.match(text, match.end()) if looks else None
        if value and re.match(looks, value[1]):
            spans.append(value.span(1))
            position = value.end()
    return spans


def _look_of_value(match: re.Match) -> str | None:
    """How a value must look to be a secret here; None where no value is one.

    It tells settings from prose, which has "the password: four digits".
    """
    name, sign, before = match["name"], match["sign"].strip(), match["before"]
    if not sign:
        return "." if before == "--" else None
    if sign == "=" and before in ("?", "&"):
        return "."
    if name.isupper():
        return "..."
    if not is_surely_secret_name(name):
        return None
    if sign == "=" or re.search(r"[_.-]|[a-z][A-Z]", name):
        return "..."
    return r"(?=.{6}).*[^A-Za-z.,!?]"


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
