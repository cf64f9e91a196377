r"""Golds, probe texts and their tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_lambda.methods import AUTO, BOXED_PROBE
from trl_lambda.probe.asking import (
    GOLD_TOKENS,
    ProbeTokens,
    find_answer_column,
    gold_of,
    probe_after,
)
from trl_lambda.templates import INSTRUCTION, fill


@pytest.mark.parametrize(
    ("entry", "gold"),
    [
        ("12", "12"),
        (12, "12"),
        (0.5, "0.5"),
        (["", "7", "8"], "7"),  # of several the first that is readable
        ("so 3 + 4 = 7\n#### 7", "7"),
        (r"thus \boxed{\frac12}.", r"\frac12"),
        ("$x$", "x"),
        (None, ""),
        ("", ""),
        ([], ""),
        ([None, ""], ""),
        ("7 " * 4000, ""),  # no answer has so many characters
    ],
)
def test_one_gold_a_row(entry, gold):
    assert gold_of(entry, "answer") == gold


@pytest.mark.parametrize("entry", [True, {"value": 1}, [object()]])
def test_what_is_no_answer_is_named(entry):
    with pytest.raises(TypeError, match=r"the column 'answer' holds .* expected a text, a number"):
        gold_of(entry, "answer")


def test_the_column_is_found_or_those_there_are_named():
    assert find_answer_column(["prompt", "solution", "answer"], None) == "answer"
    assert find_answer_column(["prompt", "gold"], "gold") == "gold"
    with pytest.raises(ValueError, match=r"answers, answer, solution, found gold, prompt\. Set"):
        find_answer_column(["prompt", "gold"], None)
    with pytest.raises(ValueError, match=r"answer_column='label', found answer, prompt\."):
        find_answer_column(["prompt", "answer"], "label")


R1 = fill("1+1?", "r1")


@pytest.mark.parametrize(
    ("prompt", "prefix", "probe"),
    [
        (fill("1+1?", "qwen_math"), "two\n", BOXED_PROBE),
        (f"{INSTRUCTION} Not ####, but <answer> no: \\boxed{{}}", "", BOXED_PROBE),
        ("End with #### and the number.", "", "\n\n#### "),
        ("Q: 1+1?", "", BOXED_PROBE),
        (R1, "two", "\n</think>\n\n<answer>"),
        (R1, "two</think> so", "\n\n<answer>"),
        ("Say it in <answer> tags.", "<think>", "\n</think>\n\n<answer>"),
    ],
)
def test_auto_asks_as_the_prompt_does(prompt, prefix, probe):
    assert probe_after(AUTO, prompt, prefix) == probe


def test_a_text_of_ones_own_is_taken_as_it_is():
    assert probe_after("A: ", R1, "<think>") == "A: "


def pairs():
    """A tokenizer that joins a blank and a digit, as those of language models do."""
    vocabulary = {c: i for i, c in enumerate("# 12\n3Ġ?")} | {"Ġ1": 9, "##": 10}
    core = Tokenizer(models.BPE(vocabulary, [("Ġ", "1"), ("#", "#")], unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


def test_a_blank_that_is_one_token_with_the_gold_is_the_golds():
    tokenizer = pairs()
    tokens = ProbeTokens(tokenizer)
    assert tokenizer.tokenize("## 12") == ["##", "Ġ1", "2"]
    assert tokens.encoded("## ", "12") == ([10, 9, 3], 2)
    assert tokens.encoded("## ", "21") == (tokenizer("## 21")["input_ids"], 2)


def test_a_long_gold_counts_by_its_first_tokens():
    ids, length = ProbeTokens(pairs()).encoded("##", "2" * 2000)
    assert (len(ids), length) == (1 + GOLD_TOKENS, GOLD_TOKENS)


def test_hostile_texts_are_only_texts():
    for text in ("\ud800", "<eos>", "{answer}", "\x00", "%s"):
        ids, length = ProbeTokens(pairs()).encoded("##", text)
        assert 0 <= length <= len(ids)
