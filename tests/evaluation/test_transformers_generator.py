"""Sampling with Transformers: its distribution, its seeds, and what must not leak into it."""

import logging

import peft
import pytest
import tiny
import tiny_chat
import torch
from scripted_generator import problem_set, sums

from trl_lambda.evaluation import Request, Sampling, TransformersGenerator, evaluate
from trl_lambda.evaluation.transformers_generator import SeededSampling, weights_fingerprint

PROMPTS = ["1+1=", "what is 12+34=", "0"]


def generator(model=None, **options) -> TransformersGenerator:
    return TransformersGenerator(model or tiny.model().eval(), tiny.tokenizer(), **options)


def requests(seeds=range(3)) -> list[Request]:
    return [Request(PROMPTS[i % 3], seed) for i, seed in enumerate(seeds)]


def sampling(**settings) -> Sampling:
    return Sampling(
        **{"temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "template": "none"} | settings
    )


def test_the_same_seeds_give_the_same_texts_and_others_do_not():
    one = generator().generate(requests(), sampling())
    assert generator().generate(requests(), sampling()) == one
    assert generator().generate(requests(range(3, 6)), sampling()) != one


def test_a_sample_depends_on_its_own_seed_alone():
    together = generator().generate(requests(), sampling())
    assert [generator().generate([one], sampling())[0] for one in requests()] == together
    swapped = generator().generate(requests()[::-1], sampling())
    assert swapped == together[::-1]


def test_global_random_state_is_not_touched():
    before = torch.random.get_rng_state()
    first = generator().generate(requests(), sampling())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert generator().generate(requests(), sampling()) == first


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
def test_first_tokens_have_the_models_distribution(temperature, top_p):
    """4000 samples of one token against softmax, cut by hand to the nucleus."""
    model = tiny.model(vocab_size=8).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(5)
        logits = model(torch.tensor([[3, 4, 5]])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1)
    order = expected.argsort(descending=True)
    keep = order[: int((expected[order].cumsum(0) < top_p).sum()) + 1]
    nucleus = torch.zeros_like(expected)
    nucleus[keep] = expected[keep]
    nucleus /= nucleus.sum()

    made = TransformersGenerator(model, tiny.tokenizer(), batch_size=4000)
    seen = []
    model.generation_config.eos_token_id = None
    made._completion = lambda ids, ends, stops: seen.append(ids[0])
    made.generate(
        [Request("012", seed) for seed in range(4000)],
        sampling(temperature=temperature, top_p=top_p, max_tokens=1),
    )
    share = torch.bincount(torch.tensor(seen), minlength=8) / 4000
    assert (share[nucleus == 0] == 0).all()
    assert (share - nucleus).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_tokens_without_probability_are_never_picked():
    scores = torch.full((500, 6), -torch.inf)
    scores[:, [1, 4]] = torch.tensor([0.0, -30.0])
    picked = SeededSampling(range(500), 1, width=2)(torch.zeros(500, 2), scores).argmax(-1)
    assert set(picked.tolist()) == {1}
    lowest = SeededSampling([0], 1, width=2)
    lowest.uniform_BT[:] = 0.0
    assert lowest(torch.zeros(1, 2), scores[:1]).argmax() == 1
    scores[:, 4] = 0.0
    picked = SeededSampling(range(500), 1, width=2)(torch.zeros(500, 2), scores).argmax(-1)
    assert set(picked.tolist()) == {1, 4}


def test_temperature_0_is_greedy():
    model = tiny.model().eval()
    made = generator(model)
    greedy = made.generate(requests(), sampling(temperature=0))
    assert made.generate(requests(range(9, 12)), sampling(temperature=0)) == greedy
    for request, completion in zip(requests(), greedy, strict=True):
        ids = torch.tensor([tiny.tokenizer()(request.prompt)["input_ids"]])
        for _ in range(completion.num_tokens):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        text = tiny.tokenizer().decode(ids[0, len(request.prompt) :], skip_special_tokens=True)
        assert completion.text == text


def test_the_models_own_generation_settings_do_not_apply():
    model = tiny.model().eval()
    expected = generator(model).generate(requests(), sampling())
    greedy = generator(model).generate(requests(), sampling(temperature=0))
    model.generation_config.update(
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        min_p=0.9,
        typical_p=0.1,
        epsilon_cutoff=0.5,
        eta_cutoff=0.5,
        min_new_tokens=11,
        bad_words_ids=[[5]],
        suppress_tokens=[6, 7, 8],
        forced_eos_token_id=1,
        max_length=3,
    )
    own = model.generation_config
    assert generator(model).generate(requests(), sampling()) == expected
    assert generator(model).generate(requests(), sampling(temperature=0)) == greedy
    assert model.generation_config is own


def test_ends_and_lengths():
    made = generator()
    a, b = tiny.tokenizer()("ab")["input_ids"]
    texts = [
        made._completion([a, b, tiny.EOS, tiny.PAD], [tiny.EOS], []),
        made._completion([a, b], [tiny.EOS], []),
    ]
    assert [(one.num_tokens, one.truncated) for one in texts] == [(3, False), (2, True)]
    assert texts[0].text == texts[1].text == tiny.tokenizer().decode([a, b])
    assert all(
        one.num_tokens == 12 or not one.truncated
        for one in made.generate(requests(range(9)), sampling())
    )


def scripted_model(tokenizer, text: str):
    """The tiny model, but greedy decoding writes this text, whatever the prompt."""
    model = tiny.model(vocab_size=len(tokenizer)).eval()
    written = iter(tokenizer(text)["input_ids"])

    def forward(*arguments, inner=model.forward, **options):
        output = inner(*arguments, **options)
        output.logits = torch.zeros_like(output.logits)
        output.logits[:, -1, next(written)] = 1.0
        return output

    model.forward = forward
    return model, written


def test_a_completion_ends_with_its_answer_element():
    tokenizer = tiny_chat.tokenizer()
    tokenizer.add_tokens(list("</>"))
    model, unwritten = scripted_model(tokenizer, "<answer>5</answer> user: 7<answer>7</answer>")
    made = TransformersGenerator(model, tokenizer)
    settings = {"temperature": 0, "max_tokens": 40}
    [one] = made.generate([Request("1", 0)], sampling(template="r1", **settings))
    assert one.text == "<answer>5</answer>"
    assert (one.num_tokens, one.truncated) == (len("<answer>5</answer>"), False)
    assert len(list(unwritten)) == len(" user: 7<answer>7</answer>")


def test_what_shares_a_token_with_the_end_is_cut_off():
    tokenizer = tiny_chat.tokenizer()
    tokenizer.add_tokens([*list("</"), ">ab"])
    made = TransformersGenerator(tiny.model(), tokenizer)
    ids = tokenizer("5</answer>ab")["input_ids"]
    one = made._completion(ids, [tiny.EOS], ["</answer>"])
    assert (one.text, one.num_tokens, one.truncated) == ("5</answer>", 10, False)


def test_a_completion_ends_with_its_turn():
    tokenizer = tiny_chat.tokenizer()
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    model, unwritten = scripted_model(tokenizer, "ab<|im_end|>cd")
    made = TransformersGenerator(model, tokenizer)
    [one] = made.generate([Request("1", 0)], sampling(template="qwen_math", temperature=0))
    assert (one.text, one.num_tokens, one.truncated) == ("ab", 3, False)
    assert len(list(unwritten)) == len("cd")


def test_a_completion_that_cannot_fit_is_refused_before_all_else(tmp_path):
    long = problem_set([("1", ["1"]), ("2" * 200, ["2"])])
    with pytest.raises(ValueError, match="longest prompt has 200 tokens and max_tokens is 57"):
        evaluate(long, generator(), sampling(max_tokens=57), tmp_path, k=1)
    assert list(tmp_path.iterdir()) == []
    generator().check(["2" * 200], sampling(max_tokens=56))


def test_an_adapter_is_loaded_and_changes_the_samples(tmp_path):
    torch.manual_seed(0)
    base = tiny.model()
    folder = base.name_or_path
    tiny.tokenizer().save_pretrained(folder)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path)
    plain = TransformersGenerator.load(folder)
    loaded = TransformersGenerator.load(folder, adapter=str(tmp_path))
    in_memory = TransformersGenerator(adapted.eval(), loaded.tokenizer)
    expected = in_memory.generate(requests(), sampling())
    assert loaded.generate(requests(), sampling()) == expected
    assert plain.generate(requests(), sampling()) != expected
    assert loaded.model.get_base_model().generation_config.eos_token_id == tiny.EOS
    assert loaded.settings["adapter"] == str(tmp_path)
    assert loaded.settings["weights_sha256"] != plain.settings["weights_sha256"]


def test_the_fingerprint_of_the_weights():
    model = tiny.model()
    assert weights_fingerprint(model) == weights_fingerprint(tiny.model())
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    assert weights_fingerprint(model) != weights_fingerprint(tiny.model())


def test_records_are_equal_to_the_bit_on_a_rerun(tmp_path):
    runs = []
    for name in "ab":
        made = generator(batch_size=4)
        evaluate(sums(3), made, sampling(), tmp_path / name, k=3, progress=False)
        runs.append((tmp_path / name / "sums" / "records.jsonl").read_bytes())
    assert runs[0] == runs[1]
    assert runs[0].count(b"\n") == 9


def test_other_batch_sizes_that_make_no_sense():
    with pytest.raises(ValueError, match="batch_size is 0"):
        generator(batch_size=0)


def limited_memory(model, most: int) -> list[int]:
    """As on a GPU that has room for so many rows; the rows of each attempt."""
    attempts = []

    def generate(input_ids, inner=model.generate, **options):
        attempts.append(len(input_ids))
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(input_ids=input_ids, **options)

    model.generate = generate
    return attempts


def test_a_batch_that_does_not_fit_is_sampled_in_parts(caplog):
    """The same samples, and the next batch begins with what was found to fit."""
    caplog.set_level(logging.WARNING, logger="trl_lambda")
    expected = generator().generate(requests(range(11)), sampling())
    model = tiny.model().eval()
    attempts = limited_memory(model, 3)
    made = generator(model, batch_size=11)
    assert made.generate(requests(range(11)), sampling()) == expected
    assert attempts == [11, 5, 2, 2, 2, 2, 2, 1]
    assert "sampling 2 completions at a time from now on" in caplog.text
    attempts.clear()
    assert made.generate(requests(range(11)), sampling()) == expected
    assert attempts == [2, 2, 2, 2, 2, 1]


def test_one_completion_that_does_not_fit_is_an_error():
    model = tiny.model().eval()
    attempts = limited_memory(model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        generator(model).generate(requests(range(4)), sampling())
    assert attempts == [4, 2, 1]


def test_completions_have_their_tokens():
    for one in generator().generate(requests(range(9)), sampling()):
        assert len(one.ids) == one.num_tokens
        assert tiny.tokenizer().decode(one.ids, skip_special_tokens=True) == one.text


def test_the_tokenizer_of_a_trained_adapter_is_used(tmp_path):
    """Its chat template is the one that the training used."""
    base = tiny.model(vocab_size=len(tiny_chat.tokenizer()))
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")

    def template():
        loaded = TransformersGenerator.load(
            str(tmp_path / "base"), adapter=str(tmp_path / "adapter")
        )
        return loaded.tokenizer.chat_template

    assert template() is None
    tiny_chat.tokenizer().save_pretrained(tmp_path / "adapter")
    assert template() == tiny_chat.CHAT_TEMPLATE
