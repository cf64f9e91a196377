"""One line of progress per training run, with the numbers that matter in it."""

from __future__ import annotations

from transformers import PrinterCallback, ProgressCallback, Trainer


class NamedProgress(ProgressCallback):
    """A bar with a name; the latest values stand at its end.

    The Trainer's own bar prints every log as one more dictionary, some thirty entries in GRPO.

    Args:
        name: that of the work.
        shown: names of the logged values to show, in this order.
    """

    def __init__(self, name: str, shown: tuple[str, ...]):
        super().__init__()
        self.name = name
        self.shown = shown

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        values = {name: logs[name] for name in self.shown if name in logs}
        if values:  # the last log of a run only sums up
            self.training_bar.set_postfix({name: f"{float(v):.3f}" for name, v in values.items()})


def show_progress(trainer: Trainer, name: str, shown: tuple[str, ...]) -> None:
    """Puts a `NamedProgress` in the place of the Trainer's own bar or printer."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(NamedProgress(name, shown))
