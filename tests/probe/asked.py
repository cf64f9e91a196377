"""A tokenizer with lines, scripted completions, and their values one prefix at a time."""

from __future__ import annotations

import copy

import tiny
import torch

PROBE = "\n# "
CHARS = {character: 3 + i for i, character in enumerate(tiny.CHARACTERS)}
NEWLINE = 3 + len(tiny.CHARACTERS)
# Two groups of four; lines of uneven length, one without any, one that ends with one.
TEXTS = ["1+1\n2\n# 2", "ab", "c\n\nd=5\n# 5", "1\n22\n333\n", "9\n8\n7", "x\ny", "z\n", "12\n12"]
GOLDS = ["12", "7-x"]
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.25, 1.0]
GROUPS = [0] * 4 + [1] * 4
# With them A is r − Φ_k.
RAW = {
    "method": "probe",
    "probe_text": PROBE,
    "probe_calibration": False,
    "trace_lambda": 1.0,
    "scale_rewards": "none",
}


def tokenizer():
    made = tiny.tokenizer()
    made.add_tokens(["\n"])
    return made


def encode(text: str) -> list[int]:
    return [NEWLINE if character == "\n" else CHARS[character] for character in text]


def completions(texts=TEXTS) -> list[list[int]]:
    return [[*encode(text), tiny.EOS] for text in texts]


def rewarded(rewards):
    def by_row(completions, **columns):
        return [rewards[i % len(rewards)] for i in range(len(completions))]

    return by_row


def rows(golds=GOLDS, count: int = 8, column: str = "answer", size: int = 4) -> list[dict]:
    return [{"prompt": f"{i // size}+1=", column: golds[i // size]} for i in range(count)]


def build(tmp_path, *, texts=TEXTS, rewards=REWARDS, settings=None, **kw):
    data = kw.pop("train_dataset", None) or tiny.Dataset.from_list(rows())
    rollout = kw.pop("rollout_func", None) or tiny.scripted(completions(texts))
    return tiny.trainer(
        tmp_path,
        reward_funcs=kw.pop("reward_funcs", None) or rewarded(rewards),
        rollout_func=rollout,
        settings=tiny.DEFAULT | {"max_completion_length": 16} | RAW | (settings or {}),
        model=kw.pop("model", None) or tiny.model(vocab_size=NEWLINE + 1),
        processing_class=kw.pop("processing_class", None) or tokenizer(),
        train_dataset=data,
        **kw,
    )


def sharp(**overrides):
    """The tiny model, with weights large enough to tell tokens apart."""
    model = tiny.model(vocab_size=NEWLINE + 1, **overrides)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8.0)
    return model


def assert_close(values, wanted, **limits):
    limits = {"rtol": 1e-4, "atol": 1e-7} | limits
    for own, want in zip(values, wanted, strict=True):
        torch.testing.assert_close(torch.tensor(own), torch.tensor(want), **limits)


def packs(trainer) -> bool:
    return trainer._continuations._packs


def score(trainer, batch=None) -> dict:
    trainer.model.train()
    return trainer._generate_and_score_completions(batch or rows())


def assert_draws_nothing(trainer) -> None:
    """The random numbers of the training are untouched."""
    torch.manual_seed(5)
    score(trainer)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


def lines(text: str) -> list[int]:
    """Positions in text and EOS at which a segment begins: after a line, or several blank ones."""
    ids = completions([text])[0]
    return [0] + [t for t in range(1, len(ids)) if ids[t - 1] == NEWLINE and ids[t] != NEWLINE]


def phi(model, prompt: list[int], prefix: list[int], gold: str, temperature: float = 1.0) -> float:
    """Φ of one prefix, alone, in float64."""
    probe, answer = encode(PROBE), encode(gold)
    ids = torch.tensor([[*prompt, *prefix, *probe, *answer]])
    with torch.no_grad():
        logits = model(ids).logits[0] / temperature
    first = ids.shape[1] - len(answer)
    logps = logits[first - 1 : -1].log_softmax(-1)[range(len(answer)), answer]
    return logps.mean().exp().item()


def in_double(model, dtype=torch.float64):
    """A copy on the CPU, without what TRL puts in the place of the original's forward."""
    copied = copy.deepcopy(model).to("cpu", dtype).eval()
    for module in copied.modules():
        module.__dict__.pop("forward", None)
    return copied


def naive(trainer, texts=TEXTS, golds=GOLDS, starts=lines, temperature=1.0, dtype=torch.float64):
    """Φ before each segment of each completion."""
    exact = in_double(trainer.accelerator.unwrap_model(trainer.model), dtype)
    values = []
    for i, text in enumerate(texts):
        prompt, ids = encode(f"{i // 4}+1="), completions([text])[0]
        own = [phi(exact, prompt, ids[:b], golds[i // 4], temperature) for b in starts(text)]
        values.append(own)
    return values


def found(output, rewards=REWARDS, texts=TEXTS, starts=lines):
    """Φ from the credit of a segment's first token, A = r − Φ."""
    credit = output["advantages"]
    return [
        [rewards[i] - credit[i, b].item() for b in starts(text)] for i, text in enumerate(texts)
    ]
