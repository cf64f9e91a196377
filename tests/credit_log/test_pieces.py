"""Pieces of a completion: joined they are the completion, and each character is at its token."""

from __future__ import annotations

from itertools import pairwise

import made_tokenizers
import pytest
import tiny_vision
from hypothesis import example, given
from hypothesis import strategies as st
from made_tokenizers import TOKENIZERS

from trl_lambda.credit_log.pieces import token_pieces

REPLACEMENT = "\ufffd"
TEXTS = st.text(max_size=60) | st.text("√÷≤語🙂e\u0301\u200d👩 a\n", max_size=60)
IDS = st.lists(st.integers(0, 400), max_size=40)


def grown(tokenizer, ids, text):
    """The definition, in quadratic time: what decoding one token more adds to what is right."""
    ends = [0]
    for k in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:k])
        pairs = enumerate(zip(so_far, text, strict=False))
        right = next((i for i, (a, b) in pairs if a != b), min(len(so_far), len(text)))
        ends.append(max(ends[-1], right))
    return [text[start:end] for start, end in pairwise(ends)]


def ids_of(tokenizer, *names):
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


# The right value, by hand.


def test_a_character_of_several_tokens_stands_at_its_last_one():
    tokenizer = made_tokenizers.byte_level(vocabulary=258)  # single bytes
    ids = tokenizer("√2≤🙂")["input_ids"]
    assert tokenizer.decode(ids[:1]) == REPLACEMENT
    assert token_pieces(tokenizer, ids) == ["", "", "√", "2", "", "", "≤", "", "", "", "🙂"]


def test_special_tokens_are_told_as_they_are():
    tokenizer = made_tokenizers.byte_level()
    ids = [*tokenizer("so")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert token_pieces(tokenizer, ids)[-2:] == ["<|end of turn|>", "<pad>"]


BYTE_LEVEL = {
    # letters of the alphabet of bytes, â = E2, Ī = 88, ļ = 9A
    ("â",): [REPLACEMENT],
    ("â", "a"): [REPLACEMENT, "a"],
    ("â", "Ī"): ["", REPLACEMENT],  # one sequence that is cut short
    ("â", "Ī", "â", "Ī", "ļ"): ["", REPLACEMENT, "", "", "√"],
    ("Ī", "Ī"): [REPLACEMENT, REPLACEMENT],
    ("ÿ", "â", "Ī", "ļ", "ÿ"): [REPLACEMENT, "", "", "√", REPLACEMENT],
    ("â", "<pad>", "Ī", "ļ"): [REPLACEMENT, "<pad>", REPLACEMENT, REPLACEMENT],
}


@pytest.mark.parametrize("names", BYTE_LEVEL, ids=" ".join)
def test_bytes_that_are_no_text(names):
    tokenizer = made_tokenizers.byte_level()
    assert token_pieces(tokenizer, ids_of(tokenizer, *names)) == BYTE_LEVEL[names]


FALLBACK = {
    # The decoder strips one space at the very beginning, and no other.
    ("▁hello", "▁the"): ["hello", " the"],
    ("▁", "▁the", "▁"): ["", " the", " "],
    ("▁of", "<0xE8>", "<0xAA>", "<0x9E>", "▁of"): ["of", "", "", "語", " of"],
    # A run of bytes is a text, or else U+FFFD for each of them.
    ("a", "<0x0A>", "<0xE2>", "<0x88>", "</s>"): ["a", *[REPLACEMENT] * 3, "</s>"],
    ("<0x20>", "<0xE8>", "<0xAA>", "<0x9E>", "<0x41>"): ["", "", "", "語", "A"],
}


@pytest.mark.parametrize("names", FALLBACK, ids=" ".join)
def test_byte_fallback(names):
    tokenizer = made_tokenizers.byte_fallback()
    assert token_pieces(tokenizer, ids_of(tokenizer, *names)) == FALLBACK[names]


@pytest.mark.parametrize(
    ("kind", "names", "pieces"),
    [
        ("metaspace", ("▁the", "▁hello", "lo"), ["the", " hello", "lo"]),
        ("word-level", ("two", "語", "two"), ["two", " 語", " two"]),
        ("word-level, tidied", ("two", ".", "don", "n't"), ["two", ".", " don", "n't"]),
        ("word-piece", ("play", "##ing", "it", "##語"), ["play", "ing", " it", "語"]),
        ("ctc", ("a", "a", "|", "b"), ["a", "", " ", "b"]),
    ],
)
def test_decoders_that_look_at_the_neighbours(kind, names, pieces):
    tokenizer = TOKENIZERS[kind]()
    assert token_pieces(tokenizer, ids_of(tokenizer, *names)) == pieces


def test_an_id_beyond_the_vocabulary_has_no_text():
    tokenizer = made_tokenizers.byte_level()
    ids = [*ids_of(tokenizer, "â", "Ī"), len(tokenizer) + 7, *ids_of(tokenizer, "ļ")]
    assert token_pieces(tokenizer, ids) == ["", "", "", "√"]


def test_no_token_at_all():
    assert token_pieces(made_tokenizers.byte_level(), []) == []


def test_a_processor_decodes_as_its_tokenizer():
    processor = tiny_vision.processor()
    ids = processor.tokenizer("1+1=")["input_ids"]
    assert token_pieces(processor, ids) == token_pieces(processor.tokenizer, ids)


# Properties, on texts and on ids that no text has.


@given(TEXTS)
@example("a\u0301√÷≤")
@example("👩‍👩‍👧")
@example(REPLACEMENT + "√")
def test_every_text(text):
    for kind in ("byte-level", "names without a meaning", "names that are bytes"):
        tokenizer = TOKENIZERS[kind]()
        ids = tokenizer.encode(text)
        pieces = token_pieces(tokenizer, ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == text
        if REPLACEMENT not in text:
            assert pieces == grown(tokenizer, ids, text)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(ids=IDS)
def test_any_ids_give_the_completion(kind, ids):
    tokenizer = TOKENIZERS[kind]()
    ids = [token % len(tokenizer) for token in ids]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


@given(IDS, st.integers(0, 40))
def test_completions_that_share_a_prefix_show_the_same_text_there(ids, shared):
    tokenizer = made_tokenizers.byte_level()
    ids = [token % len(tokenizer) for token in ids]
    other = [*ids[:shared], *reversed(ids[shared:])]
    same = max(min(shared, len(ids)) - 3, 0)  # a character of four bytes ends three tokens later
    assert token_pieces(tokenizer, ids)[:same] == token_pieces(tokenizer, other)[:same]


# Cost: tokens handed to the tokenizer, which do not depend on the machine.


class Counting:
    """Counts the tokens that a tokenizer decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def decode(self, ids):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids)

    def batch_decode(self, rows):
        self.decoded += sum(map(len, rows))
        return self.tokenizer.batch_decode(rows)


ROOT = ["<0xE2>", "<0x88>", "<0x9A>"]
# (tokenizer, the names of n tokens)
HOSTILE = {
    "no UTF-8": ("byte-level", lambda n: ["ÿ"] * n),
    "sequences cut short": ("byte-level", lambda n: ["ð", "Ł", "Ļ"] * (n // 3)),
    "characters of three bytes": ("byte-level", lambda n: ["â", "Ī", "ļ"] * (n // 3)),
    "bytes that are a text": ("byte fallback", lambda n: ROOT * (n // 3)),
    "bytes that are none": ("byte fallback", lambda n: ["<0xFF>"] * n),
    "newlines, and a byte": ("byte fallback", lambda n: ["<0x0A>"] * (n - 1) + ["<0xFF>"]),
    "a space, then bytes": ("byte fallback", lambda n: ["<0x20>"] + ROOT * (n // 3)),
    "tokens that come again": ("ctc", lambda n: ["a", "a", "<pad>"] * (n // 3)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_cost_grows_with_the_length_and_no_faster(case):
    kind, names = HOSTILE[case]
    decoded = []
    for length in (1000, 4000):
        tokenizer = Counting(TOKENIZERS[kind]())
        ids = ids_of(tokenizer.tokenizer, *names(length))
        assert "".join(token_pieces(tokenizer, ids)) == tokenizer.tokenizer.decode(ids)
        decoded.append(tokenizer.decoded)
    assert decoded[1] <= 5 * decoded[0]
    assert decoded[1] <= 200 * 4000


@pytest.mark.parametrize("byte", [0xFF, 0xE2, 0x88])
def test_a_decoder_that_nobody_knows_costs_no_more(byte):
    decoded = []
    for length in (1000, 4000):
        tokenizer = Counting(TOKENIZERS["names without a meaning"]())
        ids = [byte] * length
        assert token_pieces(tokenizer, ids) == [REPLACEMENT] * length
        decoded.append(tokenizer.decoded)
    assert decoded[1] <= 5 * decoded[0]


def test_a_decoder_that_no_window_fits_costs_no_more():
    decoded = []
    for length in (200, 800):
        tokenizer = Counting(TOKENIZERS["backwards"]())
        ids = [i * 7 % 251 for i in range(length)]
        assert "".join(token_pieces(tokenizer, ids)) == tokenizer.tokenizer.decode(ids)
        decoded.append(tokenizer.decoded)
    assert decoded[1] <= 5 * decoded[0]
