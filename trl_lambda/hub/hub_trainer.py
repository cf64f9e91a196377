"""`HubTrainer`: the trainer's methods that write model cards and push to the Hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import get_token
from trl.trainer.utils import (
    get_comet_experiment_url,
    get_config_model_id,
    get_trackio_space_url,
)

from ..atomic_write import replace_text
from ..console import get_logger
from ..host import callbacks, reward_names
from .card import CONFIG_FILE, Run, model_card
from .earlier_files import EarlierFiles
from .markdown import code_span, is_repo_id
from .plot import write_reward_plot
from .push import HubPushError, Push, WatchPushes, push_under_way, wait_for_push
from .redaction import SecretText, args_without_secrets, known_secrets, marked, public
from .reporters import tell_no_secrets
from .secrets import environment_secrets, redacted
from .settings import function_path, lora_settings, public_name, run_settings
from .usage import prompt_form

logger = get_logger(__name__)

SHOWN_COLUMNS = 8


class HubTrainer:
    """Goes before a TRL trainer in the bases of a class.

    Attributes:
        card_settings: settings of the script for the card and its YAML, beside the config's:
            `dataset_name`, `model_name_or_path`, `reward_funcs`, … `script_settings` of this
            package makes them from a script's dataclasses.
        config_fields_shown: names that the card shows also where they have their defaults.
    """

    card_settings: Any = MappingProxyType({})
    config_fields_shown: tuple[str, ...] = ()
    _card_tags: tuple[str, ...] = ()
    _saved_in: Path | None = None
    _args_in_full: Any = None

    def __init__(self, model: Any, reward_funcs: Any, args: Any, *rest: Any, **options: Any):
        if args.hub_token is not None:
            args.hub_token = SecretText(args.hub_token)
        self.earlier_files = EarlierFiles(Path(args.output_dir), announced=args.push_to_hub)
        super().__init__(model, reward_funcs, args, *rest, **options)
        tell_no_secrets(callbacks(self))
        self._rename_secret_rewards()
        self.push_watch = WatchPushes(self, self._push)
        if args.push_to_hub:
            self.add_callback(self.push_watch)
        self.add_callback(self.earlier_files)

    def add_callback(self, callback: Any) -> None:
        super().add_callback(callback)
        tell_no_secrets(callbacks(self))

    # -- secrets -------------------------------------------------------------------------------

    def _rename_secret_rewards(self) -> None:
        """A name of a reward goes into metrics, records and the trainer's state, all pushed."""
        secrets = self._secrets()
        names = reward_names(self)
        for i, name in enumerate(names):
            names[i] = redacted(name, secrets)
            if names[i] != name:
                logger.warning(
                    "The name of reward function %d holds a secret; it is logged as %s.",
                    i,
                    names[i],
                )

    def _secrets(self) -> tuple[str, ...]:
        """Texts that may stand in no file: from settings, environment and login."""
        args = self._args_in_full or self.args
        logged_in = get_token() if getattr(self, "hub_model_id", None) else None
        login = {"token": logged_in}
        return known_secrets(vars(args), dict(self.card_settings), environment_secrets(), login)

    def _shape_of_window(self) -> dict[str, Any]:
        """Checkpoints are pushed, and have the settings of their generation window."""
        return public(marked(super()._shape_of_window(), self._secrets()))

    @contextmanager
    def _args_without_secrets(self) -> Iterator[None]:
        """transformers pickles `self.args` to `training_args.bin`, and pushes it with the model."""
        outer = self.args
        self._args_in_full = self._args_in_full or outer
        self.args = args_without_secrets(self._args_in_full, self._secrets())
        try:
            yield
        finally:
            self._args_in_full = None if outer is self._args_in_full else self._args_in_full
            self.args = outer

    # -- the card ------------------------------------------------------------------------------

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Writes README.md, the plot of the reward and `training_config.yaml` to `output_dir`.

        Args:
            model_name: its name; None for the repository's or the folder's.
            dataset_name: the data set's name; remembered for later cards.
            tags: further tags; remembered for later cards.
        """
        if dataset_name is not None:
            self.card_settings = {**self.card_settings, "dataset_name": dataset_name}
        if tags:
            self._card_tags = (tags,) if isinstance(tags, str) else tuple(tags)
        self._write_card(Path(self.args.output_dir), model_name)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, and the card beside it: in checkpoints too, and for adapters."""
        folder = Path(output_dir or self.args.output_dir)
        with self._args_without_secrets():
            if _internal_call:
                super().save_model(output_dir, _internal_call)
                self._saved_in = folder
            else:
                super().save_model(output_dir)
        # PEFT has put a card of its own there.
        self._write_card(folder, None)

    def _write_card(self, folder: Path, model_name: str | None) -> None:
        if not self.is_world_process_zero():
            return
        if self._being_pushed(folder):
            return  # a plot that changes under an upload is refused by its hash
        folder.mkdir(parents=True, exist_ok=True)
        log_history = self.state.log_history
        run = self._described_run(model_name, write_reward_plot(log_history, folder))
        text = model_card(
            run, always_shown=list(self.config_fields_shown), config_class=type(self.args)
        )
        replace_text(folder / CONFIG_FILE, run.settings.as_yaml())
        # Names of metrics, columns and tags are no settings, and may hold secrets all the same.
        replace_text(folder / "README.md", redacted(text, self._secrets()))

    def _being_pushed(self, folder: Path) -> bool:
        return push_under_way(self) and folder.absolute() == Path(self.args.output_dir).absolute()

    def _described_run(self, model_name: str | None, no_plot: str | None) -> Run:
        args, script = self._args_in_full or self.args, self._script_settings()
        settings = run_settings(args, script, self._secrets())
        hub_id = self.hub_model_id or args.hub_model_id
        vision = hasattr(self.processing_class, "image_processor")
        return Run(
            name=model_name or (hub_id or Path(args.output_dir).absolute().name).split("/")[-1],
            hub_id=hub_id if is_repo_id(hub_id) else None,
            base_model=public_name(script.get("model_name_or_path")),
            adapter=_adapter(self._peft_config()),
            dataset=public_name(script.get("dataset_name")),
            dataset_facts=_data_facts(self.train_dataset),
            reward_names=list(reward_names(self)),
            config=args,
            method=self._method_values(),
            settings=settings,
            log_history=self.state.log_history,
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            processes=self.accelerator.num_processes,
            prompts=None if vision else prompt_form(self.train_dataset, settings.values),
            vision=vision,
            no_plot=no_plot,
            tags=self._all_tags(),
            links=_tracker_links(),
        )

    def _script_settings(self) -> dict[str, Any]:
        """Settings known without the script; its own win. Names are those of TRL's scripts."""
        known: dict[str, Any] = {}
        base = get_config_model_id(self.accelerator.unwrap_model(self.model).config)
        if public_name(base):
            known["model_name_or_path"] = base
        known |= lora_settings(self._peft_config())
        paths = [function_path(func) for func in self.reward_funcs]
        if paths and all(paths):
            known["reward_funcs"] = paths
        return {**known, **self.card_settings}

    def _method_values(self) -> dict[str, Any]:
        """The method's name and, by option, what trains; a trainer that has methods says so."""
        return {}

    def _peft_config(self) -> Any:
        """The active adapter's, be the model a `PeftModel` or one with transformers' adapters."""
        model = self.accelerator.unwrap_model(self.model)
        configs = getattr(model, "peft_config", None)
        if not configs:
            return None
        active = model.active_adapters
        names = active() if callable(active) else active
        return configs.get(names[0]) if names else None

    def _all_tags(self) -> list[str]:
        """As TRL's own cards have them."""
        model = self.accelerator.unwrap_model(self.model)
        # TRL puts the class's tags on the model.
        tags = ["generated_from_trainer", *(getattr(model, "model_tags", None) or [])]
        tags += self._card_tags
        if hasattr(model.config, "unsloth_version"):
            tags.append("unsloth")
        if "JOB_ID" in os.environ:
            tags.append("hf_jobs")
        if url := get_trackio_space_url():
            tags = [tag for tag in tags if not tag.startswith("trackio:")] + [f"trackio:{url}"]
        return tags

    # -- pushing -------------------------------------------------------------------------------

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with self._args_without_secrets():
            super()._push_from_checkpoint(checkpoint_folder)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        self._make_private(private)
        try:
            super().init_hf_repo(token)
        except Exception as error:
            failed = self._push().failed(error)
            if hasattr(self, "push_watch"):  # not in __init__: push_to_hub says the rest
                raise failed from error
            raise HubPushError(
                f"{str(failed).splitlines()[0]}\nThe repository was to be made before training: "
                "nothing is trained yet. Mend what the Hub says, or train with push_to_hub=False "
                f"and push afterwards with\n    {failed.command}",
                folder=failed.folder,
                command=failed.command,
            ) from error

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' (`dataset_name`, `model_name` and `tags` go to the card), but safer.

        `private` acts on a repository that this call makes, with older transformers too.

        Raises:
            HubPushError: the Hub did not take it. The model is saved locally before that, also
                where it was the repository that could not be made.
        """
        wait_for_push(self)  # before its files are written anew
        if self.state.global_step:
            self.earlier_files.tell(self.is_world_process_zero())
        self._saved_in = None
        self._make_private(private)
        push = self._push(message=commit_message, revision=revision)
        try:
            answer = super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        except Exception as error:
            if self._saved_in is None and not isinstance(error, HubPushError):
                raise  # saving failed, not pushing
            if self._saved_in is None:
                # The other processes go on to save, so this one has to.
                self.save_model(_internal_call=True)
            cause = error.__cause__ if isinstance(error, HubPushError) else error
            raise push.failed(cause) from error
        if not blocking and answer is not None:
            self.push_watch.watch(answer, push)
        return answer

    def _make_private(self, private: bool | None) -> None:
        """Through the arguments, which every transformers reads; older ones take no `private`."""
        if private is not None:
            self.args.hub_private_repo = private

    def _push(self, message: str | None = None, revision: str | None = None) -> Push:
        args, folder = self.args, Path(self.args.output_dir)
        hub_id = getattr(self, "hub_model_id", None) or args.hub_model_id
        return Push(
            repo=hub_id or folder.absolute().name,
            folder=folder,
            message=message or "End of training",
            revision=revision or args.hub_revision,
            private=args.hub_private_repo,
            secrets=self._secrets(),
        )


def _adapter(peft_config: Any) -> str | None:
    if peft_config is None:
        return None
    kind = str(peft_config.peft_type).rsplit(".", 1)[-1]
    if kind != "LORA":
        return kind
    return f"LoRA (r = {peft_config.r}, alpha = {peft_config.lora_alpha})"


def _data_facts(dataset: Any) -> str:
    """Rows and columns: what is known of any data set."""
    if dataset is None:
        return "prompts that an environment made"
    names = list(getattr(dataset, "column_names", None) or [])
    rows = f"{len(dataset)} rows" if hasattr(dataset, "__len__") else "a stream of rows"
    if not names:
        return rows
    columns = ", ".join(code_span(name) for name in names[:SHOWN_COLUMNS])
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return f"{rows} with the columns {columns}{more}"


def _tracker_links() -> dict[str, str]:
    wandb = sys.modules.get("wandb")  # imported by the trainer, if it reports there
    run = getattr(wandb, "run", None)
    links = {
        "W&amp;B": getattr(run, "url", None),
        "Trackio": get_trackio_space_url(),
        "Comet": get_comet_experiment_url(),
    }
    return {name: url for name, url in links.items() if url}
