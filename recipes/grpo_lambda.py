"""Train a language model with LambdaGRPOTrainer on prompts and reward functions of your choice.

    accelerate launch recipes/grpo_lambda.py --config recipes/configs/ours.yaml --output_dir out
    python recipes/grpo_lambda.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \\
        --dataset_name problems.parquet --prompt_column problem --conversational \\
        --reward_funcs math my_rewards.brevity --reward_weights 1.0 0.1 --use_peft --output_dir out

Options of the command line stand above those of the --config file.
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate.logging import get_logger
from named_functions import SHORT_NAMES, find_functions
from prompt_data import as_prompts, load_split
from transformers.trainer_utils import get_last_checkpoint
from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

logger = get_logger(__name__)


@dataclass
class TaskArguments:
    """What is asked and what is rewarded."""

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
    conversational: bool = field(
        default=False,
        metadata={"help": "Make text prompts a user's message, put through the chat template."},
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "A system message before it; needs --conversational."}
    )


def make_parser() -> TrlParser:
    return TrlParser(
        (TaskArguments, ScriptArguments, LambdaGRPOConfig, ModelConfig, DatasetMixtureConfig),
        description=__doc__.splitlines()[0],
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
    if task.system_prompt is not None and not task.conversational:
        raise ValueError("--system_prompt needs --conversational: plain texts have no roles.")
    if script.ignore_bias_buffers:
        raise ValueError("--ignore_bias_buffers does nothing in GRPO; leave it out.")


def checkpoint_to_resume(wanted: str | bool | None, output_dir: str) -> str | None:
    """The folder that --resume_from_checkpoint means; None to start from the beginning.

    `last` or `true` is the newest checkpoint in `output_dir`, and none where there is none yet, so
    that the same command starts a job and continues it.

    Raises:
        ValueError: a path that is not a checkpoint.
    """
    newest = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
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
        logger.warning("Resuming from %s.", newest or "the beginning: there is no checkpoint yet")
        return newest
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: no checkpoint (a folder with trainer_state.json). "
            f"The newest in {output_dir} is {newest or 'none'}; 'last' takes that one."
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


def main() -> None:
    task, script, config, model, mixture = make_parser().parse_args_and_config()
    check_arguments(task, script, model)
    rewards = find_functions(task.reward_funcs, "--reward_funcs", short_names=SHORT_NAMES)
    step_rewards = find_functions(
        task.process_reward_funcs, "--process_reward_funcs", short_names={}
    )
    checkpoint = checkpoint_to_resume(config.resume_from_checkpoint, config.output_dir)

    def prompts(split: str, option: str):
        return as_prompts(
            load_split(script, mixture, split, option),
            column=task.prompt_column,
            conversational=task.conversational,
            system_prompt=task.system_prompt,
        )

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
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        process_reward_funcs=step_rewards or None,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.accelerator.print(f"Model saved in {config.output_dir}.")
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    if hasattr(trainer, "end"):  # transformers 5.18 and later: closes trackers and processes
        trainer.end()


if __name__ == "__main__":
    main()
