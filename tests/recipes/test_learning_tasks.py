"""Tasks, methods and the sampler of the comparison."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from itertools import islice

import pytest
import torch
from benchmarks.learning import training
from benchmarks.learning.methods import METHODS
from benchmarks.learning.policy import (
    Decoder,
    FastPolicy,
    encode,
    gold_probability,
    new_model,
    sample,
    sampled_tokens,
    tokenizer,
)
from benchmarks.learning.tasks import TASKS, first_digits
from benchmarks.learning.training import TRAINERS, Rollouts, Run, make_trainer, measured
from benchmarks.learning.warm_start import held_out, others, warm_start_settings
from transformers import GenerationConfig

import trl_lambda.methods


@pytest.fixture(scope="module")
def encoder():
    return tokenizer(TASKS["chain"])


@pytest.fixture(scope="module")
def model(encoder):
    torch.manual_seed(3)
    made = new_model(encoder).eval()
    for parameter in made.parameters():  # biases too, which start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    made.lm_head.weight.data *= 10  # else all tokens are about as likely
    return made


def test_decoder_has_the_models_logits(encoder, model):
    ids_BT = torch.randint(2, len(encoder), (3, 20))
    expected_BTV = model(ids_BT).logits
    decoder = Decoder(model, 3, 20)
    torch.testing.assert_close(decoder(ids_BT[:, :6]), expected_BTV[:, 5], rtol=1e-4, atol=1e-4)
    for t in range(6, 20):
        logits = decoder(ids_BT[:, t : t + 1])
        torch.testing.assert_close(logits, expected_BTV[:, t], rtol=1e-4, atol=1e-4)


def test_decoder_has_the_models_logits_behind_prompts_of_different_lengths(encoder, model):
    lengths = [6, 1, 4]
    ids_BT = torch.randint(2, len(encoder), (3, 20))
    mask_BP = torch.arange(6) >= 6 - torch.tensor(lengths)[:, None]
    alone = [model(row[None, 6 - n :]).logits[0] for row, n in zip(ids_BT, lengths, strict=True)]
    decoder = Decoder(model, 3, 20, mask_BP.long())
    hidden_BP = ids_BT[:, :6].masked_fill(~mask_BP, encoder.pad_token_id)
    for t in range(5, 20):
        logits = decoder(hidden_BP if t == 5 else ids_BT[:, t : t + 1])
        expected = torch.stack([row[t - 6 + n] for row, n in zip(alone, lengths, strict=True)])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_generate_has_prompts_first_and_keeps_the_budget(encoder, model):
    policy = FastPolicy(model.config)
    policy.load_state_dict(model.state_dict())
    prompts = torch.tensor([[encoder.pad_token_id, 5], [4, 5]])
    config = GenerationConfig(do_sample=True, max_new_tokens=7, top_k=0)
    torch.manual_seed(0)
    ids = policy.generate(prompts, (prompts != encoder.pad_token_id).long(), config)
    torch.manual_seed(0)
    mask = torch.tensor([[0, 1], [1, 1]])
    end = encoder.eos_token_id
    new = sampled_tokens(model, prompts, tokens=7, end=end, mask_BP=mask)
    assert torch.equal(ids, torch.cat([prompts, new], 1))
    assert ids.shape[1] <= 2 + 7


@pytest.mark.parametrize(
    "asked",
    [{"do_sample": False}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1},
     {"repetition_penalty": 1.1}],
    ids=str,
)  # fmt: skip
def test_generate_refuses_to_sample_in_ways_it_does_not_know(asked, model):
    policy = FastPolicy(model.config)
    config = GenerationConfig(**({"do_sample": True, "max_new_tokens": 2, "top_k": 0} | asked))
    ids = torch.tensor([[4]])
    with pytest.raises(ValueError, match=next(iter(asked))):
        policy.generate(ids, torch.ones_like(ids), config)


def test_samples_are_as_frequent_as_the_model_says(encoder, model):
    torch.manual_seed(0)
    prompts = encode(encoder, ["="]).repeat(20_000, 1)
    rows = sample(model, prompts, tokens=2, end=encoder.eos_token_id)
    share = Counter(row[0] for row in rows)
    chances = model(prompts[:1]).logits[0, -1].softmax(-1)
    for token in chances.topk(3).indices.tolist():
        assert share[token] / 20_000 == pytest.approx(chances[token].item(), abs=0.012)
    assert all(row[-1] == encoder.eos_token_id or len(row) == 2 for row in rows)
    assert all(encoder.eos_token_id not in row[:-1] for row in rows)


def test_gold_probability_is_that_of_all_its_tokens_and_the_end(encoder, model):
    ids = [*encode(encoder, ["=-7"])[0].tolist(), encoder.eos_token_id]
    logits = model(torch.tensor([ids])).logits[0].softmax(-1)
    expected = logits[0, ids[1]] * logits[1, ids[2]] * logits[2, ids[3]]
    assert gold_probability(model, encoder, ["="], ["-7"]).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_golds_earn_the_reward_and_fit(task):
    encoder = tokenizer(task)
    for problem in islice(task.problems(random.Random(1)), 20):
        right = task.demonstrate(problem, random.Random(0), 1.0)
        assert right == problem.gold
        assert task.reward(right, problem.gold) == 1.0
        for at in task.decisions:
            wrong = right[:at] + str((int(right[at]) + 1) % 5) + right[at + 1 :]
            assert task.reward(wrong, problem.gold) == 0.0
        assert len(encode(encoder, [right])[0]) + 1 <= task.tokens
        assert bool(problem.answer) == task.answered
    assert task.reward("", problem.gold) == 0.0
    assert list(task.learning_rates) == sorted(set(task.learning_rates))


@pytest.mark.parametrize("name", ["first", "last", "chain"])
def test_who_drops_or_changes_the_text_earns_nothing(name):
    task = TASKS[name]
    gold = next(task.problems(random.Random(0))).gold
    digits = "".join(filter(str.isdigit, gold))
    for wrong in (digits, gold[:-1], gold + gold[0], gold[::-1], gold + "0"):
        assert task.reward(wrong, gold) == 0.0


@pytest.mark.parametrize(
    ("name", "length", "decisions"),
    [
        ("first", 31, [0]),
        ("last", 31, [30]),
        ("short", 48, [15, 31, 47]),
    ],
)
def test_the_decisive_tokens_sit_where_the_task_says(name, length, decisions):
    task = TASKS[name]
    problem = next(task.problems(random.Random(0)))
    text = problem.gold
    assert len(text) == length == task.tokens - 1
    assert [i for i, c in enumerate(text) if c.isdigit()] == decisions == list(task.decisions)
    operands = problem.prompt[1:-1:2]
    assert [text[i] for i in decisions] == [
        str((int(operand) + 1) % 5) for operand in operands[: len(decisions)]
    ]
    fixed = [c for c in text if not c.isdigit()]
    assert len(fixed) == len(set(fixed))


def test_the_results_of_the_chain_decide():
    task = TASKS["chain"]
    problem = next(task.problems(random.Random(0)))
    assert all(problem.gold[at - 1] == "=" for at in task.decisions)
    assert problem.gold.endswith("#" + problem.answer)
    assert problem.gold[task.decisions[-1]] == problem.answer


@pytest.mark.parametrize("name", TASKS)
def test_what_is_held_out_is_in_nothing_else(name):
    task = TASKS[name]
    shown = {p.prompt for p in others(task, 2000)}
    measured = {p.prompt for p in held_out(task)}
    assert len(measured) == task.held_out
    assert not shown & measured


def test_of_short_the_first_digits_count_and_nothing_else():
    assert first_digits("2ab", "2") == first_digits("ab2", "a2b") == first_digits("2a3", "2") == 1.0
    assert first_digits("a3b2", "2") == first_digits("ab", "2") == first_digits("", "2") == 0.0
    assert first_digits("a2b0c3", "203") == 1.0
    assert first_digits("a2b0", "203") == 0.0


def test_rollouts_say_whether_text_was_kept_and_where_it_was_decided():
    task = dataclasses.replace(TASKS["first"], decisions=(0, 3))
    rollouts = Rollouts()
    golds = ["1ab2"] * 5
    assert rollouts.add(task, ["1ab2", "2ab2", "1ab0", "1b", "1ab"], golds) == [1, 0, 0, 0, 0]
    assert rollouts.rewards == [0.2]
    assert rollouts.format == [0.6]  # the first three
    assert rollouts.decided == [0.75]  # "1b" went wrong at 1; "1ab" where the digit is missing
    rollouts.add(task, ["1ab2"], golds[:1])
    assert rollouts.decided == [0.75, None]


def test_pass_at_8_is_of_each_problem(encoder, model, monkeypatch):
    """One problem that is always right, one that never is: both numbers are one half."""
    task, problems = TASKS["chain"], held_out(TASKS["chain"])[:2]
    chances = lambda *_: torch.tensor([1.0, 0.0])  # noqa: E731
    monkeypatch.setattr(training, "gold_probability", chances)
    assert measured(model, task, problems, encoder) == (0.5, 0.5)
    chances = lambda *_: torch.tensor([0.5, 0.5])  # noqa: E731
    monkeypatch.setattr(training, "gold_probability", chances)
    assert measured(model, task, problems, encoder) == (0.5, 1 - 0.5**8)


def test_accuracy_is_the_share_of_right_samples(encoder, model, monkeypatch):
    """Of a model to which all tokens are equally likely."""
    task = dataclasses.replace(
        TASKS["chain"],
        reward=lambda text, gold: float(text[:1] < "5"),
        exact=False,
        measured=64,
    )
    weight = model.lm_head.weight
    monkeypatch.setattr(weight, "data", torch.zeros_like(weight))
    state = torch.get_rng_state()
    (share,) = measured(model, task, held_out(TASKS["chain"])[:64], encoder)
    assert torch.equal(torch.get_rng_state(), state)
    first = [encoder.decode([i], skip_special_tokens=True)[:1] for i in range(len(encoder))]
    expected = sum(character < "5" for character in first) / len(first)
    assert share == pytest.approx(expected, abs=0.03)  # of 4096 samples: 4 standard errors


def test_a_policy_that_broke_is_never_right(encoder, model, monkeypatch):
    weight = model.lm_head.weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    problems = held_out(TASKS["chain"])[:4]
    assert measured(model, TASKS["chain"], problems, encoder) == (0.0, 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_valid_config(name, tmp_path):
    method = METHODS[name]
    config, _ = TRAINERS[method.trainer]
    built = config(output_dir=str(tmp_path), use_cpu=True, bf16=False, **method.told)
    assert {k: getattr(built, k) for k in method.told} == method.told


def test_no_method_is_there_twice():
    settings = [
        (m.trainer, m.group_share, m.steps_share, sorted(m.told.items(), key=str))
        for m in METHODS.values()
    ]
    assert all(settings.count(one) == 1 for one in settings)


def test_what_a_method_means_does_not_hang_on_our_default():
    """It names the method that it is or adds to; with TRL's GRPO, the loss as well."""
    for method in METHODS.values():
        if method.trainer == "LambdaGRPOTrainer":
            assert method.told["method"] in {*trl_lambda.methods.METHODS} - {"default"}
            assert method.told["method"] != "grpo" or "loss_type" in method.told


def test_a_changed_task_is_another_start(monkeypatch):
    task = TASKS["first"]
    before = warm_start_settings(task)
    assert warm_start_settings(dataclasses.replace(task, generations=1)) == before
    assert warm_start_settings(dataclasses.replace(task, right=0.3)) != before
    other_text = dataclasses.replace(task, demonstrate=TASKS["last"].demonstrate)
    assert warm_start_settings(other_text) != before


def test_a_task_that_holds_out_all_its_problems_has_none_to_train_on():
    whole = dataclasses.replace(TASKS["first"], held_out=625)
    with pytest.raises(ValueError, match="first has 625 problems and holds out 625"):
        others(whole, 8)
    assert len(others(dataclasses.replace(whole, held_out=624), 8)) == 1


@pytest.fixture
def tiny_chain(model, tmp_path, monkeypatch):
    """`chain` with rewards that any completion may get, and an untrained start: (folder, task)."""
    odd = dataclasses.replace(
        TASKS["chain"], reward=lambda completion, gold: float(len(completion) % 2)
    )
    monkeypatch.setitem(TASKS, "chain", odd)
    model.save_pretrained(tmp_path / "start")
    return tmp_path / "start", odd


def watched(trainer) -> list[tuple[list, list]]:
    """(prompts, completions) of each call of the reward function: what the trainer trains on."""
    [reward] = trainer.reward_funcs
    seen = []

    def outcome(prompts, completion_ids, **columns):
        seen.append((prompts, completion_ids))
        return reward(prompts=prompts, completion_ids=completion_ids, **columns)

    trainer.reward_funcs = [outcome]
    return seen


@pytest.mark.parametrize("method", ["GRPO", "RLOO", "GRPO-λ normalised", "GRPO, half groups"])
def test_a_run_trains_on_what_the_policy_sampled(method, tiny_chain, tmp_path):
    """The rollout of a trainer: groups of one prompt, fresh completions, rewards of the task."""
    start, task = tiny_chain
    run = Run("chain", method, 1e-3, 0, generations=2)
    trainer, curve, rollouts = make_trainer(run, start, str(tmp_path))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    seen = watched(trainer)
    trainer.train()
    assert [point[0] for point in curve.points] == [0, 1, 2]
    assert len(seen) == len(rollouts.rewards) == 2
    group = 4 if method == "GRPO, half groups" else task.completions
    for prompts, completions in seen:
        assert len(completions) == task.groups * group
        groups = [prompts[i : i + group] for i in range(0, len(prompts), group)]
        assert all(len(set(group)) == 1 for group in groups)
    assert seen[0][1] != seen[1][1]
    assert curve.points[-1][1] == sum(len(c) for _, rows in seen for c in rows)
    after = list(trainer.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.slow
def test_arms_have_the_same_prompts_in_the_same_order(tiny_chain, tmp_path):
    start, _ = tiny_chain
    orders = []
    for method in ("GRPO", "RLOO", "GRPO, half groups", "branch", "branch, group credit"):
        run = Run("chain", method, 1e-3, 5, generations=3)
        trainer, _, _ = make_trainer(run, start, str(tmp_path))
        seen = watched(trainer)
        trainer.train()
        orders.append([list(dict.fromkeys(prompts)) for prompts, _ in seen])
    assert len(orders[0]) == 3
    assert all(order == orders[0] for order in orders)


def test_of_a_branching_run_the_curve_counts_what_was_generated(tiny_chain, tmp_path):
    start, task = tiny_chain
    run = Run("chain", "branch", 1e-3, 0, generations=2)
    trainer, curve, _ = make_trainer(run, start, str(tmp_path))
    seen = watched(trainer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert all(entry["rollout/shared_tokens"] > 0 for entry in logged)
    assert curve.points[-1][1] == sum(entry["rollout/generated_tokens"] for entry in logged)
    # What forks share with the completions before them is there once in a set of prefixes.
    size, distinct = task.completions, 0
    for _, rows in seen:
        for at in range(0, len(rows), size):
            group = rows[at : at + size]
            distinct += len({tuple(row[: n + 1]) for row in group for n in range(len(row))})
    assert distinct <= curve.points[-1][1] < sum(len(c) for _, rows in seen for c in rows)


def test_a_rollout_samples_from_the_policy_as_it_is_now(model, tmp_path):
    model.save_pretrained(tmp_path / "start")
    run = Run("chain", "GRPO-λ normalised", 1e-3, 0, generations=1)
    trainer, _, _ = make_trainer(run, tmp_path / "start", str(tmp_path))
    prompt = encode(tokenizer(TASKS["chain"]), [others(TASKS["chain"], 1)[0].prompt])[0].tolist()

    def first_tokens() -> int:
        torch.manual_seed(0)
        completions, _ = trainer._generate_single_turn([prompt] * 200, None, {}, 1)
        return len({c[0] for c in completions})

    sharp = first_tokens()
    trainer.model.lm_head.weight.data.zero_()  # now all tokens are equally likely
    assert sharp < first_tokens() == len(tokenizer(TASKS["chain"]))
