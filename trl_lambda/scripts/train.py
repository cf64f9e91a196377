"""Train a language model with LambdaGRPOTrainer on prompts and reward functions of your choice.

    accelerate launch -m trl_lambda.scripts.train \\
        --config recipes/configs/ours_qwen2.5_0.5b.yaml --output_dir out
    python -m trl_lambda.scripts.train --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \\
        --dataset_name problems.parquet --prompt_column problem --template chat \\
        --reward_funcs math my_rewards.brevity --reward_weights 1.0 0.1 --use_peft --output_dir out

In a checkout `recipes/grpo_lambda.py` is the same. Options of the command line stand above those of
the --config file.
"""

import logging
from dataclasses import dataclass, field

import torch
from accelerate.logging import get_logger
from transformers import AutoProcessor
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    get_peft_config,
    get_quantization_config,
)

from ..checkpoints.manifest import missing_part, newest_checkpoint
from ..config import LambdaGRPOConfig
from ..data import check_answers, check_template_options, end_turns, prepare_prompts
from ..data.sources import load_split
from ..hub import script_settings
from ..rewards import math_reward
from ..templates import TEMPLATES
from ..trainer import LambdaGRPOTrainer
from .config import ScriptConfig
from .device import HELP, DeviceParser, check_vllm, device_note
from .named_functions import SHORT_NAMES, find_functions

logger = get_logger("trl_lambda.scripts.train")  # also under python -m
KEPT = []  # until the interpreter ends


@dataclass
class TaskArguments:
    """The task: prompts and rewards."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Reward functions, one or several: {', '.join(SHORT_NAMES)}, or dotted paths "
            "(package.module.function). accuracy_reward reads a column `solution`, and "
            "like think_format_reward it needs conversational prompts."
        },
    )
    process_reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Dotted paths of functions that reward steps, for td_error 'process'."},
    )
    prompt_column: str = field(
        default="prompt", metadata={"help": "The data set's column that holds the prompts."}
    )
    answer_column: str | None = field(
        default=None,
        metadata={
            "help": "The column that holds the golds: bare, or at the end of worked solutions as "
            "in GSM8K (####) and MATH (boxed). It becomes the column `answers`; rows without a "
            "readable gold are left out. Not given: math finds the golds in a column `answers`, "
            "`answer` or `solution`."
        },
    )
    template: str = field(
        default="none",
        metadata={
            "help": f"How a problem becomes a prompt: {', '.join(TEMPLATES)} (see "
            "trl_lambda.templates), or a text of your own in which {prompt} stands for the "
            "problem. chat is a user's message that asks for a boxed answer."
        },
    )
    conversational: bool = field(
        default=False,
        metadata={"help": "Make text prompts a user's message, put through the chat template."},
    )
    system_prompt: str | None = field(
        default=None,
        metadata={"help": "A system message before it; needs --conversational or --template chat."},
    )
    keep_rows: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rows to train on, as column=value1,value2 or column!=value, such as "
            "'level=Level 3,Level 4,Level 5'; of several conditions all must hold."
        },
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Prompts with more tokens, template included, are left out."},
    )


def make_parser() -> DeviceParser:
    return DeviceParser(
        (TaskArguments, ScriptArguments, ScriptConfig, ModelConfig, DatasetMixtureConfig),
        description=__doc__.splitlines()[0],
        epilog=HELP,
    )


def check_arguments(task: TaskArguments, script: ScriptArguments, model: ModelConfig) -> None:
    """Raises ValueError for what is missing, and for options that nothing would read."""
    if model.model_name_or_path is None:
        raise ValueError("No model was named: give --model_name_or_path a Hub name or a folder.")
    if not task.reward_funcs:
        raise ValueError(
            f"No reward was named: give --reward_funcs one or several of {', '.join(SHORT_NAMES)}, "
            "or dotted paths (package.module.function)."
        )
    check_template_options(task.template, task.conversational, task.system_prompt)
    if script.ignore_bias_buffers:
        raise ValueError("--ignore_bias_buffers does nothing in GRPO; leave it out.")


def checkpoint_to_resume(wanted: str | bool | None, output_dir: str) -> str | None:
    """The folder that --resume_from_checkpoint means; None to start from the beginning.

    `last` or `true` is the newest whole checkpoint in `output_dir`, and none where there is none
    yet, so that the same command starts a job and continues it.

    Raises:
        ValueError: a path that is not a whole checkpoint.
    """
    newest, faults = newest_checkpoint(output_dir)
    word = str(wanted).lower()
    if wanted is None or word == "false":
        if newest is not None:
            logger.warning(
                "%s is left aside: training starts from the beginning. "
                "--resume_from_checkpoint last would continue it.",
                newest,
            )
        return None
    if word in ("last", "true"):
        for folder, fault in faults.items():
            logger.warning("%s is incomplete (%s): not resuming from it.", folder, fault)
        logger.warning("Resuming from %s.", newest or "the beginning: there is no checkpoint yet")
        return None if newest is None else str(newest)
    fault = missing_part(wanted)
    if fault is not None:
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: no checkpoint ({fault}). The newest in "
            f"{output_dir} is {newest or 'none'}; 'last' takes that one."
        )
    return wanted


def set_model_options(config: LambdaGRPOConfig, model: ModelConfig) -> None:
    """Hands the options of loading to the trainer; its own model_init_kwargs stand above them."""
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    config.model_init_kwargs = options | (config.model_init_kwargs or {})


def load_tokenizer(task: TaskArguments, config: LambdaGRPOConfig, model: ModelConfig):
    """The model's tokenizer or processor, as the trainer would load it, ending where turns do."""
    tokenizer = AutoProcessor.from_pretrained(
        model.model_name_or_path,
        revision=model.model_revision,
        truncation_side="left",
        padding_side="left",
        trust_remote_code=config.trust_remote_code,
    )
    ends = end_turns(tokenizer, task.template)
    if ends and config.use_vllm:  # which has a tokenizer of its own
        config.generation_kwargs = {"stop_token_ids": ends} | (config.generation_kwargs or {})
    return tokenizer


def show_log(config: LambdaGRPOConfig) -> None:
    """Shows what the package has to say, such as how many rows it left out; once."""
    logging.basicConfig(format="%(name)s: %(message)s")
    main = config.process_index == 0
    logging.getLogger("trl_lambda").setLevel(logging.INFO if main else logging.WARNING)


def leave_together(trainer: LambdaGRPOTrainer) -> None:
    """Closes trackers and processes once all have come here; else those still at work may hang."""
    trainer.accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        # With Gloo, torch deadlocks where the model's DDP wrapper holds the group last: it joins
        # the group's thread under Python's lock, for which that thread may be waiting.
        KEPT.append(torch.distributed.group.WORLD)
    if hasattr(trainer, "end"):  # transformers 5.18 and later
        trainer.end()


def main(arguments: list[str] | None = None) -> None:
    """Trains as the command line says; `arguments` take the place of `sys.argv[1:]`."""
    task, script, config, model, mixture = make_parser().parse_args_and_config(arguments)
    check_arguments(task, script, model)
    check_vllm(config)
    rewards = find_functions(task.reward_funcs, "--reward_funcs", short_names=SHORT_NAMES)
    step_rewards = find_functions(
        task.process_reward_funcs, "--process_reward_funcs", short_names={}
    )
    checkpoint = checkpoint_to_resume(config.resume_from_checkpoint, config.output_dir)
    show_log(config)
    if note := device_note(config):
        logger.info(note)
    tokenizer = load_tokenizer(task, config, model)

    def prompts(split: str, option: str):
        with config.main_process_first(desc=option):  # the others read its cache
            rows = prepare_prompts(
                load_split(script, mixture, split, option),
                prompt_column=task.prompt_column,
                answer_column=task.answer_column,
                template=task.template,
                conversational=task.conversational,
                system_prompt=task.system_prompt,
                conditions=task.keep_rows or (),
                max_prompt_length=task.max_prompt_length,
                tokenizer=tokenizer,
                chat_template_kwargs=config.chat_template_kwargs,
            )
        if math_reward in rewards:
            check_answers(rows)
        return rows

    train_data = prompts(script.dataset_train_split, "--dataset_train_split")
    evaluated = config.eval_strategy != "no"
    set_model_options(config, model)
    trainer = LambdaGRPOTrainer(
        model.model_name_or_path,
        rewards,
        config,
        train_dataset=train_data,
        eval_dataset=prompts(script.dataset_test_split, "--dataset_test_split")
        if evaluated
        else None,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        process_reward_funcs=step_rewards or None,
    )
    # The template also where it is the default: evaluation compares its own with it.
    settings = {"template": task.template, **script_settings(task, script, model, mixture)}
    trainer.card_settings = settings
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.accelerator.print(f"Model saved in {config.output_dir}.")
    if config.push_to_hub:
        trainer.push_to_hub()
    leave_together(trainer)


if __name__ == "__main__":
    main()
