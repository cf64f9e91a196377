"""Completions sampled with Transformers, each from its own stream of random numbers.

`generate` runs greedily on logits of which a processor leaves one token a row: the one that the
row's own uniform number picks from the cumulative distribution. So a sample depends on its seed and
not on the samples drawn before it, and torch's global random state is not touched. Shapes: B
requests of a batch, T tokens of a completion, V tokens of the vocabulary.
"""

import hashlib
import logging
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import has_file

from trl_lambda.evaluation.batch_size import suitable_batch_size
from trl_lambda.evaluation.generate import Completion, Request, Sampling
from trl_lambda.templates import encode, end_tokens, stop_texts

logger = logging.getLogger(__name__)


class TransformersGenerator:
    """Samples from a model in this process.

    On the CPU, with the same number of threads, a rerun is equal to the bit. On a GPU a batch for
    which the memory does not suffice is sampled in halves.

    Args:
        model: A causal language model, with or without a PEFT adapter. It should be in eval mode.
        tokenizer: Its tokenizer.
        batch_size: Completions sampled at a time; `None` for as many as suit model and machine.
        settings: Further settings that change the completions, to keep with the records.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = 16,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.settings = {"engine": "transformers", "batch_size": batch_size, **(settings or {})}
        self._at_once: int | None = None  # fewer than the batch once the memory did not suffice

    @classmethod
    def load(
        cls,
        model: str,
        *,
        adapter: str | None = None,
        dtype: str = "auto",
        batch_size: int | None = None,
    ) -> Self:
        """Loads a model from a folder or the Hub, onto a GPU if there is one.

        Args:
            model: Folder or Hub id of the base model.
            adapter: Folder or Hub id of a PEFT adapter for it. Where it has a tokenizer, as the
                folders of trainings do, that one is used, with the chat template of the training.
            dtype: `auto` for the dtype it was saved in, or a name such as `bfloat16`.
            batch_size: Completions sampled at a time; `None` for as many as suit.
        """
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        if adapter is not None:
            from peft import PeftModel

            loaded = PeftModel.from_pretrained(loaded, adapter)
        loaded = loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        settings = {
            "model": model,
            "adapter": adapter,
            "dtype": str(loaded.dtype),
            "device": loaded.device.type,
            "weights_sha256": weights_fingerprint(loaded),
        }
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_source(model, adapter))
        return cls(loaded, tokenizer, batch_size=batch_size, settings=settings)

    def check(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Raises a ValueError if a prompt and its completion exceed the model's positions."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        longest = max(len(self._encode(prompt, sampling)) for prompt in prompts)
        if positions is not None and longest + sampling.max_tokens > positions:
            raise ValueError(
                f"the longest prompt has {longest} tokens and max_tokens is {sampling.max_tokens}, "
                f"but the model has {positions} positions. Expected a sum of at most {positions}."
            )

    def suitable_batch_size(self, prompts: Sequence[str], sampling: Sampling) -> int:
        """As many completions at a time as suit the model and the machine."""
        longest = max(len(self._encode(prompt, sampling)) for prompt in prompts)
        return suitable_batch_size(self.model, longest + sampling.max_tokens)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Returns one completion a request, in order."""
        done: list[Completion] = []
        while len(done) < len(requests):
            size = self._at_once or len(requests)
            if (made := self._try(requests[len(done) :][:size], sampling)) is not None:
                done += made
                continue
            # After the failed call, so that its tensors are gone.
            torch.cuda.empty_cache()
            self._at_once = max(1, min(size, len(requests) - len(done)) // 2)
            logger.warning(
                "The GPU's memory does not suffice: sampling %d completions at a time from now "
                "on. A smaller batch_size saves the attempts.",
                self._at_once,
            )
        return done

    def _try(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion] | None:
        """`None` where the memory does not suffice for so many."""
        try:
            return self._sample(requests, sampling)
        except torch.OutOfMemoryError:
            if len(requests) == 1:
                raise
            return None

    def _sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        template = sampling.ends_of
        ends = _end_tokens(self.model, self.tokenizer) + end_tokens(template, self.tokenizer)
        stops = stop_texts(template)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else ends[0]
        prompts = [self._encode(request.prompt, sampling) for request in requests]
        width = max(map(len, prompts))
        ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.model.device
        with torch.no_grad(), without_own_settings(self.model):
            output_BT = self.model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=_plain_config(sampling.max_tokens, ends, pad, stops),
                tokenizer=self.tokenizer,
                logits_processor=_processors(requests, sampling, width),
            )[:, width:]
        return [self._completion(row, ends, stops) for row in output_BT.tolist()]

    def _encode(self, prompt: str, sampling: Sampling) -> list[int]:
        return encode(prompt, sampling.ends_of, self.tokenizer)

    def _completion(self, ids: list[int], ends: list[int], stops: list[str]) -> Completion:
        length = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
        text = self._decode(ids[: length and length - 1])
        for stop in stops:
            if stop in text:
                # The rest is padding, or the end of the token in which the text ended.
                text = text[: text.index(stop) + len(stop)]
                length = bisect(range(len(ids)), False, key=lambda n: stop in self._decode(ids[:n]))
        length_or_all = length or len(ids)
        return Completion(text, length_or_all, length is None, tuple(ids[:length_or_all]))

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class SeededSampling:
    """A logits processor that leaves each row the token its own uniform number picks.

    Args:
        seeds: One for each of the B rows.
        max_tokens: T.
        width: Length of the padded prompts.
    """

    def __init__(self, seeds: Sequence[int], max_tokens: int, width: int) -> None:
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        # On the CPU, so that the numbers are the same on every device.
        self.uniform_BT = torch.stack(
            [torch.rand(max_tokens, generator=stream, dtype=torch.float64) for stream in streams]
        )
        self.width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sets all of `scores` (B, V) to −∞ but the picked tokens'."""
        cumulative_BV = scores.double().softmax(-1).cumsum(-1)
        uniform_B = self.uniform_BT[:, input_ids.shape[1] - self.width].to(scores.device)
        # Strictly above the number: a token without probability is never picked.
        target_B1 = (uniform_B * cumulative_BV[:, -1])[:, None]
        token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, token_B1, 0.0)


def tokenizer_source(model: str, adapter: str | None) -> str:
    """Where the tokenizer is: the adapter's folder if it has one, else the model's."""
    if adapter is not None and has_file(adapter, "tokenizer_config.json"):
        return adapter
    return model


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash that changes with training: of each parameter's name, shape and 64 of its values."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        values = flat[:: max(1, len(flat) // 64)].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _processors(requests: Sequence[Request], sampling: Sampling, width: int) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    seeds = [request.seed for request in requests]
    processors.append(SeededSampling(seeds, sampling.max_tokens, width))
    return processors


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The end-of-sequence tokens: chat models have several."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = list(dict.fromkeys(e for e in [*ends, tokenizer.eos_token_id] if e is not None))
    if not found:
        raise ValueError(
            "neither the model's generation config nor the tokenizer has an end-of-sequence token; "
            "set tokenizer.eos_token."
        )
    return found


def _plain_config(max_tokens: int, ends: list[int], pad: int, stops: list[str]) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=pad,
        stop_strings=stops or None,
    )


@contextmanager
def without_own_settings(model: Any) -> Iterator[None]:
    """Hides the model's generation config, from which `generate` takes whatever is left unset.

    Qwen2.5's, for one, has a repetition penalty. PEFT hands its own config to the base model.
    """
    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, config in zip(holders, own, strict=True):
            holder.generation_config = config
