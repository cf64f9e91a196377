"""What a completion says is graded alike in training and in evaluation, opening and all."""

from __future__ import annotations

import pytest
import tiny
import tiny_chat
from scripted_generator import ScriptedGenerator, problem_set
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer
from trl_lambda.evaluation import Sampling, evaluate, read_records
from trl_lambda.rewards import math_reward
from trl_lambda.templates import PromptForm

PROBLEM, GOLD = "1+1=", "2"
RESPONSES = [
    r"so \boxed{2} it is",  # right unless the thought is still open
    r"so \boxed{3}</think> \boxed{2}",
    r"so \boxed{2}</think> hm",
    r"so</think> <answer>2</answer> <think></think> <answer>3</answer>",
]
THINKING = (
    "{% for m in messages %}u:{{ m.content }}<eos>{% endfor %}"
    "a:{% if thinking is not defined or thinking %}<think>\n{% endif %}"
)
# The prompt's form, options of the chat template, and the rewards.
CASES = [
    ({"template": "none"}, {}, [1, 1, 0, 0]),
    ({"template": "qwen_math"}, {}, [1, 1, 0, 0]),
    ({"template": "r1"}, {}, [0, 1, 0, 1]),
    ({"template": "q: {prompt} <think>\n"}, {}, [0, 1, 0, 0]),
    ({"template": "chat"}, {}, [0, 1, 0, 0]),
    ({"conversational": True}, {"thinking": True}, [0, 1, 0, 0]),
    ({"conversational": True}, {"thinking": False}, [1, 1, 0, 0]),
]


def tokenizer():
    made = tiny_chat.tokenizer()
    made.response_template, made.chat_template = None, THINKING
    made.add_tokens(list("<>/\\{}ABCDEFGHIJKLMNOPQRSTUVWXYZ.,|\n"))
    return made


def trained(tmp_path, cls, form, options):
    """The rewards of a batch in which the model said the responses."""
    encode = tokenizer()
    trainer = tiny.trainer(
        tmp_path,
        cls,
        model=tiny.model(vocab_size=len(encode), max_position_embeddings=4096),
        processing_class=encode,
        reward_funcs=math_reward,
        train_dataset=tiny.prompts().map(
            lambda row: {"prompt": form.apply(PROBLEM), "answer": GOLD}
        ),
        settings={
            "max_steps": 1,
            "max_completion_length": 90,
            "num_generations": 4,
            "per_device_train_batch_size": 4,
            "chat_template_kwargs": options,
        },
    )
    tiny_chat.script(trainer, RESPONSES)
    trainer.train()
    return list(trainer._logs["rewards"]["math_reward"])[-4:]


def evaluated(tmp_path, form, options):
    said = iter(RESPONSES)
    generator = ScriptedGenerator(lambda prompt, stream: next(said))
    generator.tokenizer = tokenizer()
    sampling = Sampling(
        template=form.template,
        conversational=form.conversational,
        chat_template_kwargs=options or None,
    )
    problems = problem_set([(PROBLEM, [GOLD])])
    evaluate(problems, generator, sampling, tmp_path, k=4, progress=False)
    records = read_records(tmp_path / "small" / "records.jsonl")
    return [float(record.correct) for record in records]


@pytest.mark.parametrize(("prompt_form", "options", "rewards"), CASES, ids=str)
def test_training_and_evaluation_agree(tmp_path, prompt_form, options, rewards):
    form = PromptForm(**prompt_form)
    assert trained(tmp_path / "run", LambdaGRPOTrainer, form, options) == rewards
    assert evaluated(tmp_path / "evaluation", form, options) == rewards


@pytest.mark.parametrize(("prompt_form", "options", "rewards"), CASES[:4], ids=str)
def test_so_does_trl_where_prompts_are_texts(tmp_path, prompt_form, options, rewards):
    assert trained(tmp_path, GRPOTrainer, PromptForm(**prompt_form), options) == rewards
