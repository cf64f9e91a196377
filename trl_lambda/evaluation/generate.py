"""Types that a generator takes and returns, and the seeds of samples."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trl_lambda.templates import check_template_options


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        temperature: 0 for the likeliest token each time.
        top_p: Sample from the smallest set of tokens that has this probability.
        max_tokens: The most tokens of a completion, its end-of-sequence token included.
        template: A name of `templates.TEMPLATES`, a text of one's own in which `{prompt}` stands
            for the problem, or `None` for the benchmark's.
        conversational: Whether the prompt becomes a user's message, put through the chat template;
            with `chat` it always does.
        system_prompt: A system message before it.
        chat_template_kwargs: Further arguments of the chat template, as in `GRPOConfig`.
        seed: Two runs with the same seed and the same settings draw the same completions.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 3000
    template: str | None = None
    conversational: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}, expected a number ≥ 0.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, expected a number in (0, 1].")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected at least 1.")
        if self.template is not None:
            check_template_options(self.template, self.conversational, self.system_prompt)

    @property
    def is_chat(self) -> bool:
        """Whether the prompts are messages, which the chat template makes a text of."""
        return self.conversational or self.template == "chat"

    @property
    def ends_of(self) -> str:
        """The template whose special tokens and ends apply: `chat` for all messages."""
        return "chat" if self.is_chat else str(self.template)


@dataclass(frozen=True)
class Request:
    """A completion to sample: the prompt's text and the seed of this sample alone."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Completion:
    """A sampled completion.

    Attributes:
        text: Without special tokens.
        num_tokens: Tokens sampled, the end-of-sequence token included.
        truncated: Whether it reached `max_tokens` without ending.
        ids: The tokens sampled, for reward functions that look at them; not kept in the records.
    """

    text: str
    num_tokens: int
    truncated: bool
    ids: tuple[int, ...] = ()


class Generator(Protocol):
    """Samples completions.

    Attributes:
        batch_size: Requests of one call. The runner always forms the same batches, so a generator
            whose numbers depend on what shares a batch still repeats itself. `None`: the generator
            has a method `suitable_batch_size(prompts, sampling)` that says how many.
        settings: All that changes its completions, as JSON: engine, model, adapter, ….
        tokenizer: For the chat template; `None` if there is none.
    """

    batch_size: int | None
    settings: Mapping[str, Any]
    tokenizer: Any

    def check(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Raises a ValueError if a prompt cannot be continued; called before all else."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Returns one completion a request, in order; `sampling.template` is set."""
        ...


def sample_seed(seed: int, name: str, problem: int, sample: int) -> int:
    """Seed of one sample, in [0, 2⁶³): it depends on nothing that happens before it."""
    digest = hashlib.sha256(f"{seed}/{name}/{problem}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
