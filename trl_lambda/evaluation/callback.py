"""Evaluation while training: avg@k and pass@k every N steps, in the trainer's log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing

from trl_lambda.atomic_write import replace_json
from trl_lambda.console import get_logger
from trl_lambda.evaluation.generate import Sampling
from trl_lambda.evaluation.problem_sets import ProblemSet
from trl_lambda.evaluation.records import Record, write_records
from trl_lambda.evaluation.runner import plan, prompt_text, resolve, run_batch
from trl_lambda.evaluation.scoring import MATH, Rewards, check_rewards, judges_math, others
from trl_lambda.evaluation.settings import describe, read_json
from trl_lambda.evaluation.summary import pass_ks, summarize
from trl_lambda.evaluation.tables import settings_line
from trl_lambda.evaluation.trained_with import config_settings, differences_from_training
from trl_lambda.evaluation.transformers_generator import TransformersGenerator
from trl_lambda.host import callbacks, under_fsdp

logger = get_logger(__name__)


class EvaluationCallback(TrainerCallback):
    """Evaluates the policy before the first step and every N steps.

    Logged through the trainer, so that every tracker gets them: `eval_<set>/avg@k`, `pass@k`, both
    ends of their intervals as `…/low` and `…/high`, `truncated`, `format` and `mean_tokens`. The
    records of each evaluation go to `<output_dir>/evaluation/<set>/step-<step>.jsonl`, summary and
    settings to the `.json` beside it. Training is not disturbed: no random number is drawn
    from the global state, and the training metrics under way stay as they are.

    The processes share the batches. Sampling is by Transformers, whatever generates the rollouts.
    Where the sampling differs from the training's, the log says so once. A chat template gets the
    training's `chat_template_kwargs` unless `sampling` has its own.

    Args:
        trainer: The trainer; add the callback with `trainer.add_callback`.
        problem_set: The problems, see `load_problem_set`; `.limit(n)` makes it cheaper.
        every: Steps between evaluations.
        k: Samples a problem; `None` for the set's own.
        sampling: How to sample.
        rewards: Functions that score a sample, as for `evaluate`.
        batch_size: Completions sampled at a time, in each process.
        keep_best: Metric, such as `avg@4` or `pass@4`, whose best checkpoint is kept in
            `<output_dir>/best`, the earlier of equals, with `evaluation.json` beside it; `None` to
            keep none. The untrained model is evaluated and not kept, so the best of the trained
            ones may be worse than it: the log says so.

    Raises:
        ValueError: `every` < 1, a `keep_best` that is no metric, or a trainer under FSDP.

    Example:
        >>> problems = load_problem_set("math500").limit(100)
        >>> trainer.add_callback(EvaluationCallback(trainer, problems, every=50, k=4))
    """

    def __init__(
        self,
        trainer: Any,
        problem_set: ProblemSet,
        *,
        every: int,
        k: int | None = None,
        sampling: Sampling | None = None,
        rewards: Rewards = MATH,
        batch_size: int = 16,
        keep_best: str | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}, expected at least 1 step.")
        if under_fsdp(trainer):
            raise ValueError(
                "EvaluationCallback cannot generate under FSDP; use DDP or DeepSpeed, or evaluate "
                "the saved checkpoints with recipes/evaluate.py."
            )
        self.trainer = trainer
        self.problem_set = problem_set
        self.every = every
        self.k = problem_set.default_k if k is None else k
        self.sampling = _resolved(sampling or Sampling(), problem_set, self.k, trainer.args)
        self.rewards = rewards
        check_rewards(rewards, problem_set.problems, problem_set.source)
        self.batch_size = batch_size
        self.keep_best = keep_best
        self.best: float | None = None
        self.untrained: float | None = None
        if keep_best is not None and keep_best not in (names := _metric_names(self.k, rewards)):
            raise ValueError(f"keep_best is {keep_best!r}, expected one of {', '.join(names)}.")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluates the untrained policy; a resumed training takes up its best value.

        Raises:
            ValueError: another evaluation callback of the trainer writes to the same place.
        """
        self._check_others()
        if state.global_step == 0:
            self._evaluate(state.global_step)
        elif (
            self.keep_best is not None and (path := self._best_folder / "evaluation.json").exists()
        ):
            kept = read_json(path)
            self.best = kept["metrics"].get(self.keep_best, {}).get("value")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluates every N steps."""
        if state.global_step % self.every == 0:
            self._evaluate(state.global_step)

    def _check_others(self) -> None:
        """Two callbacks that write to one place would lose what one of them wrote."""
        for other in callbacks(self.trainer):
            if other is self or not isinstance(other, EvaluationCallback):
                continue
            if self.keep_best is not None and other.keep_best is not None:
                raise ValueError(
                    f"Two evaluation callbacks keep their best checkpoint in {self._best_folder}, "
                    f"by {other.keep_best} of {other.problem_set.name} and by {self.keep_best} of "
                    f"{self.problem_set.name}; give keep_best to one of them."
                )
            if other.problem_set.name == self.problem_set.name:
                raise ValueError(
                    f"Two evaluation callbacks have a problem set named {self.problem_set.name!r}, "
                    "by which records and logs are known; give one of the sets another name with "
                    "dataclasses.replace(problem_set, name=…)."
                )

    @property
    def _best_folder(self) -> Path:
        return Path(self.trainer.args.output_dir) / "best"

    def _evaluate(self, step: int) -> None:
        with _generator(self.trainer, self.batch_size, step) as generator:
            settings = describe(
                self.problem_set, generator, self.sampling, self.k, rewards=self.rewards
            )
            records = self._sample(generator)
        # Every process has all records, so that all of them log and decide the same.
        summary = {"step": step} | summarize(records, settings, votes=False)
        if self.trainer.accelerator.is_main_process:
            self._write(records, summary)
        logger.info("%s, step %d: %s", self.problem_set.name, step, settings_line(settings))
        self._log(summary)
        self._keep_if_best(summary)

    def _sample(self, generator: TransformersGenerator) -> list[Record]:
        accelerator = self.trainer.accelerator
        prompts = [
            prompt_text(one.problem, self.sampling, generator.tokenizer)
            for one in self.problem_set.problems
        ]
        generator.check(prompts, self.sampling)
        batches = plan(len(self.problem_set.problems), self.k, self.batch_size)
        mine: list[Record] = []
        for batch in batches[accelerator.process_index :: accelerator.num_processes]:
            mine += run_batch(batch, self.problem_set, generator, self.sampling, self.rewards)
        return sorted(gather_object(mine), key=lambda record: record.key)

    def _write(self, records: Sequence[Record], summary: dict[str, Any]) -> None:
        folder = Path(self.trainer.args.output_dir) / "evaluation" / self.problem_set.name
        folder.mkdir(parents=True, exist_ok=True)
        write_records(folder / f"step-{summary['step']}.jsonl", records)
        replace_json(folder / f"step-{summary['step']}.json", summary)

    def _log(self, summary: dict[str, Any]) -> None:
        prefix = f"eval_{self.problem_set.name}"
        logs: dict[str, float] = {}
        for name, metric in summary["metrics"].items():
            if metric["value"] is None:  # no sample was judged
                continue
            logs[f"{prefix}/{name}"] = metric["value"]
            if "interval" in metric:
                low, high = metric["interval"]
                logs |= {f"{prefix}/{name}/low": low, f"{prefix}/{name}/high": high}
        logs[f"{prefix}/truncated"] = summary["truncated"]
        if "format" in summary:
            logs[f"{prefix}/format"] = summary["format"]
        logs[f"{prefix}/mean_tokens"] = summary["tokens"]["mean"]
        # Not GRPOTrainer's own, which would close the averages of training metrics under way.
        Trainer.log(self.trainer, logs)

    def _keep_if_best(self, summary: dict[str, Any]) -> None:
        if self.keep_best is None:
            return
        value = summary["metrics"][self.keep_best]["value"]
        if summary["step"] == 0:  # nothing is trained yet, and who trains has that model already
            self.untrained = value
            return
        if value is None or (self.best is not None and value <= self.best):
            return
        self.best = value
        self.trainer.save_model(str(self._best_folder))
        if not self.trainer.accelerator.is_main_process:
            return
        replace_json(self._best_folder / "evaluation.json", summary)
        if self.untrained is not None and value < self.untrained:
            logger.warning(
                "keep_best: step %d is the best so far with %s %.4g, and worse than the untrained "
                "model with %.4g.",
                summary["step"],
                self.keep_best,
                value,
                self.untrained,
            )


@contextmanager
def _generator(trainer: Any, batch_size: int, step: int) -> Iterator[TransformersGenerator]:
    """The policy as it is now, in eval mode."""
    training = trainer.model.training
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    kwargs = trainer.args.gradient_checkpointing_kwargs
    # Checkpointing is off before the model is unwrapped: TRL before 1.16 would turn it on again
    # without these keyword arguments.
    with (
        disable_gradient_checkpointing(trainer.model, kwargs),
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
    ):
        model.eval()
        try:
            yield TransformersGenerator(
                model, tokenizer, batch_size=batch_size, settings={"step": step}
            )
        finally:
            model.train(training)


def _resolved(sampling: Sampling, problem_set: ProblemSet, k: int, args: Any) -> Sampling:
    """The sampling as it is used, once it was said what the training does otherwise."""
    resolved = resolve(sampling, problem_set, k)
    if resolved.is_chat and resolved.chat_template_kwargs is None:
        resolved = replace(
            resolved, chat_template_kwargs=getattr(args, "chat_template_kwargs", None)
        )
    for said in differences_from_training(config_settings(args), resolved):
        logger.info("%s: %s", problem_set.name, said)
    return resolved


def _metric_names(k: int, rewards: Rewards) -> list[str]:
    """Names of the metrics to come; a reward has pass@k only if it turns out to be 0 or 1."""
    math = [f"avg@{k}", *(f"pass@{drawn}" for drawn in pass_ks(k))]
    return [
        *(math if judges_math(rewards) else []),
        *(f"{name} avg@{k}" for name in others(rewards)),
    ]
