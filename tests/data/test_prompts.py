"""Prompts and golds from data sets: what is kept, what becomes of it, what the log says."""

from __future__ import annotations

import logging

import pytest
import tiny
import tiny_chat
import trl
from datasets import Dataset, IterableDataset
from packaging.version import Version
from trl import GRPOConfig, GRPOTrainer

from trl_lambda.data import (
    RowCondition,
    add_answers,
    check_answers,
    drop_long_prompts,
    end_turns,
    keep_rows,
    prepare_prompts,
    prompt_lengths,
    write_prompts,
)
from trl_lambda.rewards import math_reward
from trl_lambda.templates import INSTRUCTION, encode, render

LEVELS = [
    {"problem": f"{i}+1=", "level": f"Level {i % 5 + 1}", "year": 2020 + i} for i in range(10)
]


@pytest.fixture(params=["rows", "stream", "undeclared stream"])
def made(request):
    """Makes a data set of rows: in memory, or a stream, whose columns may not be declared."""

    def make(rows: list[dict]):
        if request.param == "rows":
            return Dataset.from_list(rows)
        if request.param == "stream":
            return Dataset.from_list(rows).to_iterable_dataset()
        return IterableDataset.from_generator(lambda: iter(rows))

    return make


@pytest.fixture
def told(caplog):
    """What the package has logged, from INFO on."""
    caplog.set_level(logging.INFO, logger="trl_lambda")
    return lambda: [record.getMessage() for record in caplog.records]


# Golds.


@pytest.mark.parametrize(
    ("name", "worked"),
    [
        ("gsm8k", "She has {} left.\nSo <<2+2=4>>4 and more.\n#### {}"),
        ("math500", r"We use \boxed{{x}} first, so the answer is $\boxed{{{1}}}$."),
    ],
)
def test_golds_of_worked_solutions_are_those_of_the_answers(real_problems, name, worked):
    """GSM8K's and MATH's forms around real answers: the same golds, and graded as right."""
    rows = [row for row in real_problems(name)[:300] if len(row["answers"]) == 1]
    solved = [row | {"solution": worked.format("7", row["answers"][0])} for row in rows]
    data = Dataset.from_list(solved).remove_columns("answers")
    prepared = prepare_prompts(data, prompt_column="problem", answer_column="solution")
    bare = prepare_prompts(
        Dataset.from_list(rows), prompt_column="problem", answer_column="answers"
    )
    assert prepared["answers"][:] == bare["answers"][:]
    assert len(prepared) == len(rows)
    completions = [rf"\boxed{{{golds[0]}}}" for golds in prepared["answers"]]
    rewards = math_reward(completions, answers=prepared["answers"][:])
    assert rewards == [1.0] * len(rows)


def test_rows_without_a_gold_are_left_out_and_counted(made, told):
    rows = [
        {"answer": "so #### 42", "i": 0},
        {"answer": "", "i": 1},
        {"answer": None, "i": 2},
        {"answer": "x" * 5000, "i": 3},
        {"answer": "$7$", "i": 4},
    ]
    kept = list(add_answers(made(rows), "answer"))
    assert [(row["answers"], row["i"]) for row in kept] == [(["42"], 0), (["7"], 4)]
    assert kept[0]["answer"] == "so #### 42"
    assert any(line.startswith("answer_column answer:") for line in told())


def test_many_unreadable_golds_come_first():
    """More than `datasets` looks at before it settles a column's type."""
    rows = Dataset.from_list([{"answer": ""}] * 1500 + [{"answer": "3"}])
    assert add_answers(rows, "answer")["answers"][:] == [["3"]]


def test_golds_that_are_numbers_and_lists(made):
    rows = [{"final": 142.0}, {"final": 0.5}]
    assert [row["answers"] for row in add_answers(made(rows), "final")] == [["142"], ["0.5"]]
    rows = [{"final": ["1", "", r"\boxed{2}"]}]
    assert [row["answers"] for row in add_answers(made(rows), "final")] == [["1", "2"]]


def test_answer_columns_that_cannot_be(made):
    with pytest.raises(ValueError, match=r"answer_column gold: .* it has problem, level, year"):
        add_answers(made(LEVELS), "gold")
    with pytest.raises(ValueError, match="a column answers besides"):
        add_answers(made([{"gold": "1", "answers": ["1"]}]), "gold")
    with pytest.raises(ValueError, match=r"answer_column gold: .*of type dict"):
        list(add_answers(made([{"gold": {"a": 1}}]), "gold"))
    with pytest.raises(ValueError, match="needs golds in a column answers, answer or solution"):
        check_answers(made(LEVELS))
    check_answers(made([{"solution": "1"}]))


# Rows.


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        (["level=Level 3,Level 4,Level 5"], [2, 3, 4, 7, 8, 9]),
        (["level= Level 3 , Level 4 "], [2, 3, 7, 8]),
        (["level!=Level 1"], [1, 2, 3, 4, 6, 7, 8, 9]),
        (['level=["Level 1"]'], [0, 5]),
        (["level=Level 1,Level 2", "year!=2020"], [1, 5, 6]),
        (["year=2020,2023"], [0, 3]),
        (['year=["2020", 2023]'], [0, 3]),
        ([], list(range(10))),
    ],
)
def test_conditions(made, conditions, kept):
    rows = keep_rows(made(LEVELS), conditions)
    assert [row["year"] - 2020 for row in rows] == kept


def test_conditions_on_odd_cells(made):
    rows = [{"tag": ["a", "b,c"], "n": 3.0}, {"tag": [], "n": None}, {"tag": ["b"], "n": 3.5}]
    assert [row["n"] for row in keep_rows(made(rows), ['tag=["b,c"]'])] == [3.0]
    assert [row["n"] for row in keep_rows(made(rows), ["tag!=a"])] == [None, 3.5]
    assert [row["tag"] for row in keep_rows(made(rows), ["n=3,null"])] == [["a", "b,c"], []]


@pytest.mark.parametrize("text", ["level", "=a", "level=", "level=,", "!=a", "level=[1", ""])
def test_conditions_that_are_none(text):
    with pytest.raises(ValueError, match="expected column=value1,value2"):
        RowCondition.parse(text)


def test_a_condition_says_what_it_left_out_and_what_is_not_there(told):
    rows = keep_rows(Dataset.from_list(LEVELS), ["level=Level 3,Levle 4"])
    assert len(rows) == 2
    warning, count = told()
    assert "no row has 'Levle 4'" in warning
    assert "'Level 4' (2)" in warning
    assert count == "keep_rows level=Level 3,Levle 4: 8 of 10 rows left out."


def test_nothing_left_is_an_error_that_lists_the_values():
    with pytest.raises(ValueError, match=r"none of 10 rows is left. .*'Level 1' \(2\)"):
        keep_rows(Dataset.from_list(LEVELS), ["level=hard"])


def test_nothing_left_of_a_stream_is_an_error():
    stream = Dataset.from_list(LEVELS).to_iterable_dataset()
    with pytest.raises(ValueError, match="No row passes all of keep_rows"):
        prepare_prompts(stream, prompt_column="problem", conditions=["level=hard"])


def test_a_stream_tells_of_the_1st_10th_and_100th_row(told):
    stream = Dataset.from_list([{"i": i % 2} for i in range(300)]).to_iterable_dataset()
    assert sum(1 for _ in keep_rows(stream, ["i=1"])) == 150
    assert [line.split(": ")[1] for line in told()] == [
        "1 of 1 rows read so far left out.",
        "10 of 19 rows read so far left out.",
        "100 of 199 rows read so far left out.",
    ]


def test_missing_columns_list_those_there(made):
    with pytest.raises(ValueError, match=r"keep_rows topic: .* it has problem, level, year"):
        keep_rows(made(LEVELS), ["topic=algebra"])
    with pytest.raises(ValueError, match=r"prompt_column question: .* it has problem, level, year"):
        write_prompts(made(LEVELS), "question")


# Prompts.


def test_raw_prompts_are_renamed_only(made):
    (first, *_) = write_prompts(made(LEVELS), "problem")
    assert first == {"prompt": "0+1=", "level": "Level 1", "year": 2020}


def test_messages_with_a_system_prompt(made):
    rows = made([{"problem": "1+1=", "answer": "2"}])
    (row,) = write_prompts(rows, "problem", conversational=True, system_prompt="Add.")
    assert row["answer"] == "2"
    assert row["prompt"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1="},
    ]
    (row,) = write_prompts(rows, "problem", template="chat")
    assert row["prompt"] == [{"role": "user", "content": f"1+1=\n{INSTRUCTION}"}]
    (row,) = write_prompts(rows, "problem", template="Q: {prompt} {x}\nA:", conversational=True)
    assert row["prompt"] == [{"role": "user", "content": "Q: 1+1= {x}\nA:"}]


def test_messages_get_a_system_prompt_at_most(made):
    rows = made([{"prompt": [{"role": "user", "content": "1+1="}]}])
    (row,) = write_prompts(rows, system_prompt="Add.")
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    with pytest.raises(ValueError, match="expected prompts that are texts, got list"):
        list(write_prompts(rows, conversational=True))
    with pytest.raises(ValueError, match="expected prompts that are texts, got list"):
        list(write_prompts(rows, template="chat"))
    with pytest.raises(ValueError, match="have a system message already"):
        list(write_prompts(made([row]), system_prompt="Add."))


@pytest.mark.parametrize("template", ["qwen_math", "r1", "none", "chat"])
def test_training_sees_the_tokens_that_evaluation_sees(real_problems, template):
    """TRL tokenizes what we prepare to the ids that `trl_lambda.evaluation` would sample from."""
    rows = Dataset.from_list(real_problems("math500")[:20])
    tokenizer = tiny_chat.tokenizer()
    trainer = tokens_trainer(tokenizer)
    prepared = write_prompts(rows, "problem", template=template)
    trained_on, *_ = trainer._tokenize_prompts(prepared["prompt"][:])
    evaluated = [
        encode(render(problem, template, tokenizer), template, tokenizer)
        for problem in rows["problem"]
    ]
    assert trained_on == evaluated


def tokens_trainer(tokenizer) -> GRPOTrainer:
    """A trainer that is asked for its tokens only."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.processing_class, trainer.tools, trainer.environment_factories = tokenizer, None, None
    trainer.chat_template, trainer.chat_template_kwargs, trainer._is_vlm = None, {}, False
    return trainer


def test_options_that_do_not_go_together(made):
    rows = made([{"prompt": "1+1="}])
    for options, said in [
        ({"template": "gpt"}, "qwen_math, r1, none, chat, or a text in which {prompt}"),
        ({"template": "qwen_math", "conversational": True}, "leave conversational out"),
        ({"template": "r1", "system_prompt": "x"}, "leave system_prompt out"),
    ]:
        with pytest.raises(ValueError, match=said):
            write_prompts(rows, **options)
    with pytest.raises(ValueError, match="plain texts have no roles"):
        list(write_prompts(rows, system_prompt="x"))
    with pytest.raises(ValueError, match="a column named prompt besides"):
        write_prompts(made([{"prompt": "a", "problem": "b"}]), "problem")


def test_hostile_prompts(made, told):
    """Empty ones are left out and counted; all others arrive as they are."""
    texts = ["", "<script>{prompt}</script>", "  \n", "\ud7ff\u202e", "x" * 1_000_000]
    rows = write_prompts(made([{"prompt": text} for text in texts]), template="<{prompt}>")
    assert [row["prompt"] for row in rows] == [f"<{text}>" for text in texts if text.strip()]
    assert any("left out" in line for line in told())


def test_missing_prompts_are_left_out(made):
    rows = made([{"prompt": "1+1="}, {"prompt": None}])
    assert [row["prompt"] for row in write_prompts(rows)] == ["1+1="]


# Lengths.


@pytest.mark.parametrize("template", ["none", "qwen_math", "chat"])
def test_lengths_are_the_trainers(real_problems, template):
    rows = write_prompts(
        Dataset.from_list(real_problems("gsm8k")[:50]), "problem", template=template
    )
    tokenizer = tiny_chat.tokenizer()
    ids, *_ = tokens_trainer(tokenizer)._tokenize_prompts(rows["prompt"][:])
    assert prompt_lengths(rows["prompt"][:], tokenizer, {}) == list(map(len, ids))


def test_long_real_prompts_are_left_out_and_counted(real_problems, told):
    """One token per character: the count can be made by hand."""
    problems = [row["problem"] for row in real_problems("gsm8k")[:2000]]
    rows = Dataset.from_dict({"prompt": problems})
    kept = drop_long_prompts(rows, 200, tiny.tokenizer())
    expected = [problem for problem in problems if len(problem) <= 200]
    assert 0 < len(expected) < 2000
    assert kept["prompt"][:] == expected
    assert told()[-1] == f"max_prompt_length 200: {2000 - len(expected)} of 2000 rows left out."
    stream = drop_long_prompts(rows.to_iterable_dataset(), 200, tiny.tokenizer())
    assert [row["prompt"] for row in stream] == expected


def test_the_template_counts(made):
    rows = made([{"prompt": "1+1="}, {"prompt": "12345+1="}])
    tokenizer = tiny_chat.tokenizer()  # u:…<eos>a: around the prompt
    kept = prepare_prompts(rows, conversational=True, max_prompt_length=9, tokenizer=tokenizer)
    assert [row["prompt"][0]["content"] for row in kept] == ["1+1="]


def test_lengths_that_cannot_be(made):
    rows = made([{"prompt": "1+1="}])
    with pytest.raises(ValueError, match="max_prompt_length is 0"):
        drop_long_prompts(rows, 0, tiny.tokenizer())
    with pytest.raises(ValueError, match="needs a tokenizer"):
        prepare_prompts(rows, max_prompt_length=5)
    with pytest.raises(ValueError, match=r"is left|No row passes"):
        prepare_prompts(rows, max_prompt_length=3, tokenizer=tiny.tokenizer())


def test_messages_need_a_chat_template(made):
    rows = made([{"prompt": "1+1="}])
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        prepare_prompts(rows, template="chat", tokenizer=tiny.tokenizer())


# Ends.


def test_qwen_math_ends_at_the_end_of_a_turn():
    tokenizer = tiny.tokenizer()
    assert end_turns(tokenizer, "qwen_math") == []  # it has no such token
    assert tokenizer.eos_token == "<eos>"
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    tokenizer.pad_token = None
    assert end_turns(tokenizer, "none") == []
    ends = end_turns(tokenizer, "qwen_math")
    assert ends == [tokenizer.eos_token_id] == tokenizer("<|im_end|>")["input_ids"]
    assert tokenizer.pad_token == "<eos>"  # and is not masked out of the loss as padding


def test_the_trainer_ends_at_the_end_of_a_turn(tmp_path):
    """Since TRL 1.14.2 also where the model's own configuration ends."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    (end,) = end_turns(tokenizer, "qwen_math")
    model = tiny.model(vocab_size=len(tokenizer))
    settings = tiny.config(GRPOConfig, tmp_path)
    trainer = GRPOTrainer(
        model,
        tiny.letter_reward,
        settings,
        train_dataset=tiny.prompts(),
        processing_class=tokenizer,
    )
    ends = trainer.generation_config.eos_token_id
    if Version(trl.__version__) < Version("1.14.2"):
        assert ends == end
    else:
        assert set(ends) == {end, tiny.EOS}


def test_a_prepared_stream_trains(tmp_path, made):
    """What the reward sees are the rows that passed, with their golds."""
    rows = [
        {"question": f"{i}+1=" + "0" * (i % 3 * 20), "answer": f"so #### {i + 1}"}
        for i in range(24)
    ]
    prepared = prepare_prompts(
        made(rows),
        prompt_column="question",
        answer_column="answer",
        template="q {prompt}",
        max_prompt_length=12,
        tokenizer=tiny.tokenizer(),
    )
    seen = set()

    def reward(prompts, completions, answers, **columns):
        seen.update((prompt, *golds) for prompt, golds in zip(prompts, answers, strict=True))
        return [float(len(text)) for text in completions]

    tiny.trainer(tmp_path, reward_funcs=reward, train_dataset=prepared).train()
    assert len(seen) == 6  # two prompts in each of three steps
    assert seen <= {(f"q {i}+1=", str(i + 1)) for i in range(0, 24, 3)}
