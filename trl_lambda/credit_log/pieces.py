"""The text of each token of a completion, such that the texts joined are the completion.

`decode([token])` is not that text: a character may span several tokens (`√` is three bytes), and
decoders add or strip spaces by a token's neighbours. So the whole completion is decoded once and
the text is cut. A model of the tokenizer says how many bytes of it each token wrote, and the text
itself is the check of the model:

- byte-level BPE: a token's string spells its bytes;
- any other decoder: what a token adds behind the token before it; tokens like `<0xE2>` are bytes;
- where neither gives the text: windows of growing size, of at most `LONGEST_WINDOW` tokens.

A character goes to the token with its last byte: what a token shows then depends on the tokens
before it alone, so completions that share a prefix show the same text there. All of this takes time
linear in the number of tokens, also where the bytes are no UTF-8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import ProcessorMixin

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Tokens that one character, or one stretch that a decoder treats as a whole, may span.
LONGEST_WINDOW = 8
# Characters in which the next token is looked for where a decoder wrote something of its own.
SEARCHED = 64

# Bytes that are no UTF-8 are decoded as a first mark and following ones. The marks are surrogates,
# which no valid UTF-8 holds.
FIRST, FOLLOWING = "\ud800", "\ud801"
_MARKED = "trl_lambda_marked"


def _marks(error: UnicodeError) -> tuple[str, int]:
    """One mark for each byte of what a decoder replaces by a single U+FFFD."""
    assert isinstance(error, UnicodeDecodeError)
    return FIRST + FOLLOWING * (error.end - error.start - 1), error.end


codecs.register_error(_MARKED, _marks)


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; `"".join` of them is `tokenizer.decode(ids)`.

    Args:
        tokenizer: a tokenizer of transformers, or a processor that has one.
        ids: T token ids; one that the tokenizer does not know has no text.

    Returns:
        T texts. A token that ends inside a character has the empty one.
    """
    if isinstance(tokenizer, ProcessorMixin):
        tokenizer = tokenizer.tokenizer
    ids = list(ids)
    text = tokenizer.decode(ids)
    strings = _token_strings(tokenizer, ids)
    pieces = _cut(text, _spelt_bytes(strings))
    if pieces is not None:
        return pieces
    added = _added_texts(tokenizer, ids)
    pieces = _cut(text, _with_byte_tokens(tokenizer, ids, strings, added))
    return _scanned(tokenizer, ids, text, added) if pieces is None else pieces


def _token_strings(tokenizer: Any, ids: list[int]) -> list[str | bytes | None]:
    """The tokens as the vocabulary spells them, each id asked for once."""
    distinct = list(dict.fromkeys(ids))
    spelt = dict(zip(distinct, tokenizer.convert_ids_to_tokens(distinct), strict=True))
    return [spelt[token] for token in ids]


def _cut(text: str, written: list[bytes]) -> list[str] | None:
    """The text cut where the tokens end, None if these bytes are not the text."""
    marked = b"".join(written).decode("utf-8", errors=_MARKED)
    if marked.replace(FIRST, REPLACEMENT).replace(FOLLOWING, "") != text:
        return None
    points = np.frombuffer(marked.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    widths[(points == ord(FIRST)) | (points == ord(FOLLOWING))] = 1
    # Where a character of the text ends, in bytes: not before a following mark.
    is_last = np.append(points[1:] != ord(FOLLOWING), True)[: len(points)]
    ends = np.cumsum(widths)[is_last]
    token_ends = np.cumsum([len(part) for part in written])
    cuts = np.searchsorted(ends, token_ends, side="right").tolist()
    return [text[start:end] for start, end in pairwise([0, *cuts])]


# -- byte-level BPE ----------------------------------------------------------------------------


def _byte_of_letter() -> dict[str, int]:
    """The alphabet of byte-level BPE: visible Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_of_letter()


def _spelt_bytes(strings: list[str | bytes | None]) -> list[bytes]:
    """The bytes of each token: its string in the alphabet of bytes, else the string's UTF-8."""
    spelt: dict[str | bytes | None, bytes] = {None: b""}
    for string in set(strings) - {None}:
        spelt[string] = string if isinstance(string, bytes) else _bytes_of(string)
    return [spelt[string] for string in strings]


def _bytes_of(string: str) -> bytes:
    letters = [_BYTES.get(letter) for letter in string]
    return _utf8(string) if None in letters else bytes(letters)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


# -- other decoders ----------------------------------------------------------------------------


def _added_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds behind the token before it."""
    pairs = list(dict.fromkeys(pairwise(ids)))
    single = list(dict.fromkeys(ids))
    decoded = tokenizer.batch_decode([[token] for token in single] + [list(pair) for pair in pairs])
    alone = dict(zip(single, decoded, strict=False))
    both = dict(zip(pairs, decoded[len(single) :], strict=True))
    first = [alone[token] for token in ids[:1]]
    return first + [_behind(alone[a], both[a, b], alone[b]) for a, b in pairwise(ids)]


def _behind(before: str, both: str, otherwise: str) -> str:
    return both[len(before) :] if both.startswith(before) else otherwise


def _with_byte_tokens(
    tokenizer: Any, ids: list[int], strings: list[str | bytes | None], added: list[str]
) -> list[bytes]:
    """The bytes each token writes, where a run of byte tokens is a text or else U+FFFD for each."""
    matches = {string: BYTE_TOKEN.fullmatch(string) for string in set(strings) if _is_text(string)}
    is_byte = {
        token: bool(matches.get(string)) and tokenizer.decode([token]) != string
        for token, string in dict(zip(ids, strings, strict=True)).items()
    }
    written: list[bytes] = []
    run: list[bytes] = []
    for token, string, text in zip(ids, strings, added, strict=True):
        if is_byte[token]:
            run.append(bytes.fromhex(matches[string][1]))
            continue
        written += _run_of_bytes(run)
        run = []
        written.append(_utf8(text))
    return written + _run_of_bytes(run)


def _is_text(string: Any) -> bool:
    return isinstance(string, str)


def _run_of_bytes(run: list[bytes]) -> list[bytes]:
    try:
        b"".join(run).decode("utf-8")
    except UnicodeDecodeError:
        return [_utf8(REPLACEMENT)] * len(run)
    return run


def _scanned(tokenizer: Any, ids: list[int], text: str, added: list[str]) -> list[str]:
    """The text cut along what the tokens add, in one pass that finds its place again where it must.

    Whatever the decoder does, the pieces joined are the text: what no token accounts for goes to
    the token before it.
    """
    cuts: list[int] = []  # the end of each token
    at = 0
    while len(cuts) < len(ids):
        k = len(cuts)
        if text.startswith(added[k], at):
            at += len(added[k])
            cuts.append(at)
            continue
        end, gained = _window(tokenizer, ids, text, k, at)
        if gained:
            cuts += [at] * (end - k - 1)  # a character of several tokens ends with the last
            at += gained
            cuts.append(at)
            continue
        found = text.find(added[k], at, at + SEARCHED + len(added[k])) if added[k] else -1
        if found >= 0:
            cuts[k - 1 : k] = [found] * bool(k)
            at = found + len(added[k])
        cuts.append(at)
    cuts[-1:] = [len(text)] * bool(cuts)
    return [text[start:end] for start, end in pairwise([0, *cuts])]


def _window(tokenizer: Any, ids: list[int], text: str, k: int, at: int) -> tuple[int, int]:
    """(end, characters) of the shortest window of tokens k … end − 1 that writes what stands there.

    Behind the token before it, or else alone: bytes before it may belong to a character of their
    own. No character if there is no such window of at most `LONGEST_WINDOW` tokens.
    """
    contexts = [(k - 1, tokenizer.decode(ids[k - 1 : k])), (k, "")] if k else [(0, "")]
    for end in range(k + 1, min(k + LONGEST_WINDOW, len(ids)) + 1):
        for start, before in contexts:
            written = tokenizer.decode(ids[start:end])
            gained = written[len(before) :] if written.startswith(before) else ""
            if gained and text.startswith(gained, at):
                return end, len(gained)
    return k, 0
