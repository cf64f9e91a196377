"""The calls to vLLM, recorded by a stand-in; vLLM itself does not run here."""

import sys
from types import ModuleType, SimpleNamespace

import peft
import pytest
import tiny
from scripted_generator import sums

from trl_lambda.evaluation import Request, Sampling, VLLMGenerator, evaluate, read_records


@pytest.fixture
def vllm(monkeypatch):
    """A module with vLLM's three public names; `calls` says how they were called."""
    calls = SimpleNamespace(llm=[], generate=[], on_cpu=False)

    class LLM:
        def __init__(self, **options):
            calls.llm.append(options)
            self.model_config = SimpleNamespace(max_model_len=3100)

        def get_tokenizer(self):
            return tiny.tokenizer()

        def generate(self, prompts, *, sampling_params, use_tqdm, lora_request):
            calls.generate.append((prompts, sampling_params, lora_request))
            assert use_tqdm is False
            return [SimpleNamespace(outputs=[answer(params)]) for params in sampling_params]

    def answer(params):
        return SimpleNamespace(
            text=rf"\boxed{{{(params['seed'] or 0) % 5}}}",
            token_ids=[5] * 7,
            finish_reason="length" if (params["seed"] or 0) % 2 else "stop",
        )

    module, lora = ModuleType("vllm"), ModuleType("vllm.lora.request")
    module.LLM, module.SamplingParams = LLM, lambda **settings: settings
    lora.LoRARequest = lambda *arguments: ("lora", *arguments)
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: calls.on_cpu)
    for one in (module, ModuleType("vllm.lora"), lora, platforms):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return calls


def test_no_seeds_on_a_cpu(vllm):
    """Its sampler fails on them."""
    vllm.on_cpu = True
    VLLMGenerator("model").generate([Request("1+1=", 4)], Sampling())
    ((_, params, _),) = vllm.generate
    assert [one["seed"] for one in params] == [None]


def test_every_setting_reaches_vllm(vllm):
    made = VLLMGenerator("model", dtype="float16", max_model_len=99)
    settings = Sampling(temperature=0.7, top_p=0.9, max_tokens=5, template="none")
    completions = made.generate([Request("1+1=", 4), Request("2", 7)], settings)
    assert vllm.llm == [{"model": "model", "dtype": "float16", "max_model_len": 99}]
    [(prompts, params, lora)] = vllm.generate
    assert prompts == [
        {"prompt_token_ids": tiny.tokenizer()(t)["input_ids"]} for t in ("1+1=", "2")
    ]
    fixed = {"n": 1, "temperature": 0.7, "top_p": 0.9, "max_tokens": 5}
    ends = {"stop_token_ids": [], "stop": [], "include_stop_str_in_output": True}
    assert params == [fixed | ends | {"seed": seed} for seed in (4, 7)]
    assert lora is None
    assert [(one.text, one.num_tokens, one.truncated) for one in completions] == [
        (r"\boxed{4}", 7, False),
        (r"\boxed{2}", 7, True),
    ]
    assert [one.ids for one in completions] == [(5,) * 7] * 2


def test_the_ends_of_a_template_reach_vllm(vllm):
    made = VLLMGenerator("model")
    made.tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    for template in ("qwen_math", "r1"):
        made.generate([Request("1", 0)], Sampling(template=template))
    (_, [turn], _), (_, [answer], _) = vllm.generate
    assert turn["stop_token_ids"] == made.tokenizer("<|im_end|>")["input_ids"]
    assert (turn["stop"], answer["stop"]) == ([], ["</answer>"])
    assert answer["stop_token_ids"] == []


def test_an_adapter_is_passed_with_its_rank(vllm, tmp_path):
    peft.LoraConfig(r=12, base_model_name_or_path="model").save_pretrained(tmp_path)
    made = VLLMGenerator("model", adapter=str(tmp_path))
    made.generate([Request("1", 0)], Sampling(template="none"))
    assert vllm.llm[0]["enable_lora"] is True
    assert vllm.llm[0]["max_lora_rank"] == 12
    assert vllm.generate[0][2] == ("lora", "adapter", 1, str(tmp_path))


def test_a_run_has_every_sample_once(vllm, tmp_path):
    made = VLLMGenerator("model", batch_size=5)
    evaluate(sums(4), made, Sampling(), tmp_path, k=3, progress=False)
    keys = [one.key for one in read_records(tmp_path / "sums" / "records.jsonl")]
    assert keys == [(problem, sample) for problem in range(4) for sample in range(3)]
    seeds = [params["seed"] for _, batch, _ in vllm.generate for params in batch]
    assert len(seeds) == len(set(seeds)) == 12


def test_what_does_not_fit_is_refused_before_anything_is_sampled(vllm, tmp_path):
    """vLLM would find it when it comes to it, and would cut completions short."""
    made = VLLMGenerator("model")
    with pytest.raises(ValueError, match="longest prompt has 4 tokens and max_tokens is 3097, but"):
        evaluate(sums(4), made, Sampling(max_tokens=3097), tmp_path, k=1)
    assert vllm.generate == []
    assert list(tmp_path.iterdir()) == []
    made.check(["1+1="], Sampling(max_tokens=3096, template="none"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        VLLMGenerator("model", batch_size=0)


def test_the_tokenizer_of_a_trained_adapter_is_used(vllm, tmp_path):
    peft.LoraConfig(r=12, base_model_name_or_path="model").save_pretrained(tmp_path)
    VLLMGenerator("model", adapter=str(tmp_path))
    tiny.tokenizer().save_pretrained(tmp_path)
    VLLMGenerator("model", adapter=str(tmp_path))
    assert [one.get("tokenizer") for one in vllm.llm] == [None, str(tmp_path)]


def test_retrained_weights_of_the_same_name_are_told_apart(vllm, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = VLLMGenerator(str(tmp_path)).settings
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert VLLMGenerator(str(tmp_path)).settings != before


def test_without_vllm_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"pip install 'trl-lambda\[vllm\]', or use Transform"):
        VLLMGenerator("model")
