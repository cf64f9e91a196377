"""Prompts and golds from the data sets people use: rows chosen, prompts written, golds read.

    from datasets import load_dataset
    from trl_lambda.data import prepare_prompts

    rows = load_dataset("openai/gsm8k", "main", split="train")
    prompts = prepare_prompts(
        rows, prompt_column="question", answer_column="answer", template="chat"
    )

gives `prompt` as TRL wants it and `answers` as `trl_lambda.rewards.math_reward` wants them. All of
it works on a `Dataset` and, row by row as it is read, on an `IterableDataset`. The log counts the
rows that are left out. Under several processes let the main process go first, so that the others
read its cache: `with training_args.main_process_first(): ...`.
"""

from ..templates import check_template_options
from .prompts import (
    add_answers,
    check_answers,
    drop_long_prompts,
    end_turns,
    prepare_prompts,
    prompt_lengths,
    write_prompts,
)
from .rows import RowCondition, keep_rows

__all__ = [
    "RowCondition",
    "add_answers",
    "check_answers",
    "check_template_options",
    "drop_long_prompts",
    "end_turns",
    "keep_rows",
    "prepare_prompts",
    "prompt_lengths",
    "write_prompts",
]
