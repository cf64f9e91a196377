"""The probe's credit through the trainer: exact values, and every kind of batch."""

import itertools
import logging
import math
import re
from types import SimpleNamespace

import asked
import pytest
import segment_oracles
import tiny
import tiny_chat
import tiny_vision
import torch
from asked import GROUPS, REWARDS, TEXTS, build, completions, lines, naive, rows, score
from datasets import Dataset, IterableDataset

from trl_lambda import LambdaGRPOTrainer
from trl_lambda.health.answer_probe import PROBE_KNOWS_LITTLE
from trl_lambda.health.no_learning import WarnOfNoLearning

TRAINED = {"probe_calibration": True}  # what the method has


def std_of(rewards, groups, scale: str) -> list[float]:
    if scale == "none":
        return [1.0] * len(rewards)
    pools = [
        [r for r, g in zip(rewards, groups, strict=True) if scale == "batch" or g == own]
        for own in groups
    ]
    return [torch.tensor(pool, dtype=torch.float64).std().item() + 1e-4 for pool in pools]


def expected(values, rewards=REWARDS, decay=1.0, scale="none", texts=TEXTS, **options):
    """(B, T) from Φ of each segment, in a loop."""
    width = max(len(text) for text in texts) + 1
    out = torch.zeros(len(texts), width, dtype=torch.float64)
    for i, (text, own) in enumerate(zip(texts, values, strict=True)):
        begins, n = lines(text), len(text) + 1
        ends = [t + 1 in begins or t == n - 1 for t in range(n)]
        std = std_of(rewards, GROUPS, scale)[i]
        row = segment_oracles.probe_credit(ends, [1] * n, own, rewards[i], std, decay, **options)
        out[i, :n] = torch.tensor(row)
    return out


def rloo(rewards=REWARDS, scale="none", texts=TEXTS) -> torch.Tensor:
    std = std_of(rewards, GROUPS, scale)
    others = segment_oracles.leave_one_out(rewards, GROUPS)
    width = max(len(text) for text in texts) + 1
    out = torch.zeros(len(texts), width, dtype=torch.float64)
    for i, text in enumerate(texts):
        out[i, : len(text) + 1] = (rewards[i] - others[i]) / std[i]
    return out


def assert_credit(output, want, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(output["advantages"].double(), want, rtol=rtol, atol=atol)


def logged(trainer) -> dict[str, float]:
    return {
        name: values[-1]
        for name, values in trainer._metrics["train"].items()
        if name.startswith("probe/")
    }


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.8, 1.0])
def test_credit_is_that_of_the_definition(tmp_path, decay, scale):
    settings = {"trace_lambda": decay, "scale_rewards": scale}
    trainer = build(tmp_path, settings=settings)
    output = score(trainer)
    assert_credit(output, expected(naive(trainer), decay=decay, scale=scale))
    assert logged(trainer)["probe/in_use"] == 1
    assert logged(trainer)["probe/share_fallback"] == 0


def test_the_other_styles_and_a_normalised_trace(tmp_path):
    settings = {"trace_style": "both", "normalize_trace": True, "trace_lambda": 0.7}
    trainer = build(tmp_path, settings=settings)
    want = expected(naive(trainer), decay=0.7, style="both", normalize=True)
    assert_credit(score(trainer), want)


def test_a_decay_that_counts_tokens(tmp_path):
    """δ on the last token of a segment, and c^(t−k) between tokens."""
    trainer = build(tmp_path, settings={"trace_per": "token", "trace_lambda": 0.9})
    steps = expected(naive(trainer), decay=0.0)
    want = torch.zeros_like(steps)
    for i, text in enumerate(TEXTS):
        begins, n = lines(text), len(text) + 1
        ends = [t for t in range(n) if t + 1 in begins or t == n - 1]
        for k in range(n):
            want[i, k] = sum(0.9 ** (end - k) * steps[i, end] for end in ends if end >= k)
    assert_credit(score(trainer), want)


def test_a_decay_that_follows_the_number_of_segments(tmp_path):
    settings = {"trace_lambda": "length", "trace_alpha": 0.9}
    trainer = build(tmp_path, settings=settings)
    values = naive(trainer)
    want = torch.stack(
        [
            expected(values, decay=max(0.0, 1 - 1 / (0.9 * len(own))))[i]
            for i, own in enumerate(values)
        ]
    )
    assert len({len(own) for own in values}) > 2
    assert_credit(score(trainer), want)


@pytest.mark.parametrize("decay", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_it_is_rloo_while_the_calibration_has_not_started(tmp_path, decay, scale):
    settings = TRAINED | {"trace_lambda": decay, "scale_rewards": scale}
    trainer = build(tmp_path, settings=settings)
    assert_credit(score(trainer), rloo(scale=scale))
    assert logged(trainer)["probe/in_use"] == 0
    others = segment_oracles.leave_one_out(REWARDS, GROUPS)
    per_segment = [v for v, text in zip(others, TEXTS, strict=True) for _ in lines(text)]
    assert logged(trainer)["probe/value_mean"] == pytest.approx(sum(per_segment) / len(per_segment))


@pytest.mark.parametrize("calibration", [True, False])
@pytest.mark.parametrize("missing", [None, "", []])
def test_a_group_without_a_gold_gets_group_credit(tmp_path, missing, calibration):
    settings = {"probe_calibration": calibration, "scale_rewards": "group"}
    trainer = build(tmp_path, settings=settings)
    batch = rows([asked.GOLDS[0], missing])
    output = score(trainer, batch)
    values = naive(trainer)
    want = rloo(scale="group") if calibration else expected(values, scale="group")
    mean = sum(REWARDS[4:]) / 4
    for i in range(4, 8):
        own = (REWARDS[i] - mean) / std_of(REWARDS, GROUPS, "group")[i]
        want[i] = 0.0
        want[i, : len(TEXTS[i]) + 1] = own
    assert_credit(output, want)
    assert logged(trainer)["probe/share_fallback"] == 0.5


def test_without_any_gold_all_is_group_credit_and_nothing_is_unknown(tmp_path):
    trainer = build(tmp_path)
    output = score(trainer, rows([None, None]))
    mean = [sum(REWARDS[g * 4 : g * 4 + 4]) / 4 for g in GROUPS]
    assert output["advantages"][:, 0].tolist() == pytest.approx(
        [r - m for r, m in zip(REWARDS, mean, strict=True)]
    )
    told = logged(trainer)
    assert told["probe/share_fallback"] == 1
    assert not any(math.isnan(value) for value in told.values())


@pytest.mark.parametrize("calibration", [True, False])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_without_variance(tmp_path, scale, calibration):
    """Nothing is divided by a deviation of 0; undivided, the probe still tells progress."""
    rewards = [1.0] * 4 + REWARDS[4:]
    settings = {"scale_rewards": scale, "probe_calibration": calibration}
    trainer = build(tmp_path, rewards=rewards, settings=settings)
    credit = score(trainer)["advantages"]
    if calibration or scale == "group":
        assert not credit[:4].any()
    else:
        want = expected(naive(trainer), rewards=rewards, scale=scale)
        torch.testing.assert_close(credit.double(), want, rtol=1e-4, atol=1e-5)
    assert credit[4:].any()


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_batch_without_variance_teaches_nothing(tmp_path, scale):
    trainer = build(tmp_path, rewards=[0.1] * 8, settings={"scale_rewards": scale})
    assert not score(trainer)["advantages"].any()


def test_of_several_golds_the_first_counts(tmp_path):
    data = rows([["12", "3"], ["", "7-x"]], column="answers")
    trainer = build(tmp_path, train_dataset=Dataset.from_list(data))
    assert_credit(score(trainer, data), expected(naive(trainer)))


def test_completions_that_are_cut_off(tmp_path):
    texts = TEXTS[:]
    cut = completions(texts)
    cut[2], cut[4] = cut[2][:-1], cut[4][:-1]
    for masks in (False, True):
        settings = {"mask_truncated_completions": masks}
        trainer = build(tmp_path / str(masks), rollout_func=tiny.scripted(cut), settings=settings)
        output = score(trainer)
        want = expected(naive(trainer))
        for i in (2, 4):
            want[i, len(texts[i])] = 0.0
            if masks:
                want[i] = 0.0
        assert_credit(output, want[:, : max(map(len, cut))])


def test_a_completion_of_one_segment_is_a_plain_baseline(tmp_path):
    texts = ["ab", "1", "22", "333"] * 2
    for decay in (0.0, 0.8):
        trainer = build(tmp_path / str(decay), texts=texts, settings={"trace_lambda": decay})
        values = naive(trainer, texts=texts)
        assert {len(own) for own in values} == {1}
        credit = score(trainer)["advantages"]
        for i, (value,) in enumerate(values):
            own = credit[i, : len(texts[i]) + 1]
            torch.testing.assert_close(own, torch.full_like(own, REWARDS[i] - value))


def test_rewards_of_any_range_and_their_weights(tmp_path):
    """V after the last segment is the weighted sum."""

    def lengths(completions, **columns):
        return [-float(len(text)) for text in completions]

    settings = {"reward_weights": [2.0, 0.5]}
    trainer = build(tmp_path, reward_funcs=[asked.rewarded(REWARDS), lengths], settings=settings)
    output = score(trainer)
    shown = asked.tokenizer().batch_decode(completions(), skip_special_tokens=True)
    total = [2 * r - 0.5 * len(text) for r, text in zip(REWARDS, shown, strict=True)]
    assert_credit(output, expected(naive(trainer), rewards=total))


def test_a_reward_that_is_unknown(tmp_path):
    rewards = [None if i in (1, 6) else r for i, r in enumerate(REWARDS)]
    for calibration in (True, False):
        settings = {"probe_calibration": calibration}
        trainer = build(tmp_path / str(calibration), rewards=rewards, settings=settings)
        output = score(trainer)
        known = [math.nan if r is None else r for r in rewards]
        want = rloo(rewards=known) if calibration else expected(naive(trainer), rewards=known)
        assert_credit(output, want.nan_to_num(0.0))
        assert not any(math.isnan(value) for value in logged(trainer).values())


def test_process_set_weights_weigh_it(tmp_path):
    texts = ["1\n2", "1\n3", "1\n2", "4"] * 2
    plain = build(tmp_path / "plain", texts=texts)
    weighted = build(tmp_path / "sets", texts=texts, settings={"process_set_weighting": True})
    one, other = score(plain)["advantages"], score(weighted)["advantages"]
    sizes = torch.tensor([[3, 3, 2, 2], [3, 3, 1, 1], [3, 3, 2, 2], [1, 1, 1, 1]] * 2)
    torch.testing.assert_close(other, one / sizes)


# -- columns ---------------------------------------------------------------------------------------


def test_without_answers_it_is_refused_before_a_model_is_loaded(tmp_path):
    data = Dataset.from_list([{"prompt": "1+1=", "gold": "2", "level": 1}] * 8)
    with pytest.raises(ValueError, match=r"answers, answer, solution, found gold, level, prompt"):
        tiny.trainer(
            tmp_path,
            model="no/such-model",
            train_dataset=data,
            settings=tiny.DEFAULT | {"method": "probe"},
        )
    with pytest.raises(ValueError, match=r"expected answer_column='golds', found gold, level"):
        build(tmp_path, train_dataset=data, settings={"answer_column": "golds"})
    build(tmp_path, train_dataset=data, settings={"answer_column": "gold"})


def stream(column: str):
    def rows_of():
        yield from ({"prompt": "1+1=", column: "2"} for _ in range(8))

    return IterableDataset.from_generator(rows_of)


def test_a_stream_whose_columns_nobody_knows_is_refused_at_its_first_row(tmp_path):
    trainer = build(tmp_path, train_dataset=stream("gold"))
    with pytest.raises(ValueError, match=r"answers, answer, solution, found gold"):
        trainer.train()
    trainer = build(tmp_path, train_dataset=stream("answer"), settings={"max_steps": 1})
    trainer.train()
    assert trainer.state.log_history[0]["probe/share_fallback"] == 0


def test_an_evaluation_set_without_answers_falls_back(tmp_path):
    trainer = build(tmp_path)
    trainer.model.eval()
    output = trainer._generate_and_score_completions([{"prompt": "1+1="}] * 8)
    assert output["advantages"].isfinite().all()
    assert trainer._metrics["eval"]["probe/share_fallback"] == [1.0]
    assert trainer._probe.column == "answer"


def test_an_evaluation_teaches_the_calibration_nothing(tmp_path):
    trainer = build(tmp_path, settings=TRAINED)
    score(trainer)
    seen = trainer._probe.calibration.groups
    trainer.model.eval()
    trainer._generate_and_score_completions(rows())
    assert (seen, trainer._probe.calibration.groups) == (2, 2)


# -- tools and images ------------------------------------------------------------------------------

CALL = "[roll count=2]"
DIALOGUES = [[CALL, "5", "ab"], [CALL, "6", "ab"], [CALL, "5", "ac"], ["no"]] * 2


def with_tools(tmp_path, **settings):
    data = [{"prompt": [{"role": "user", "content": f"{g}+1="}], "answer": "7"} for g in GROUPS]
    trainer = tiny.trainer(
        tmp_path,
        LambdaGRPOTrainer,
        model=tiny_chat.model(),
        processing_class=tiny_chat.tokenizer(),
        reward_funcs=asked.rewarded(REWARDS),
        train_dataset=Dataset.from_list(data),
        settings=tiny.DEFAULT
        | asked.RAW
        | {"max_completion_length": 60, "probe_text": "#"}
        | settings,
        tools=[tiny_chat.dice(tiny_chat.in_order(DIALOGUES, 1))],
    )
    tiny_chat.script(trainer, tiny_chat.in_order(DIALOGUES, 0))
    return trainer, data


@pytest.mark.parametrize("iterations", [1, 2])  # in a pass of their own, in TRL's
def test_a_tools_tokens_are_part_of_the_prefix_and_never_a_segment(tmp_path, iterations):
    trainer, data = with_tools(tmp_path, num_iterations=iterations)
    credit = score(trainer, data)["advantages"]
    model = asked.in_double(trainer.model)
    encode = tiny_chat.tokenizer()
    for i, dialogue in enumerate(DIALOGUES):
        ids, policy = tiny_chat.transcript(dialogue)
        prompt = encode(f"u:{GROUPS[i]}+1=<eos>a:")["input_ids"]
        begins = [0, *(t for t in range(1, len(ids)) if policy[t] and not policy[t - 1])]
        assert len(begins) == (2 if len(dialogue) > 1 else 1)
        for number, begin in enumerate(begins):
            asks = [*prompt, *ids[:begin], *encode("#7")["input_ids"]]
            with torch.no_grad():
                value = model(torch.tensor([asks])).logits[0, -2].softmax(-1)[asks[-1]].item()
            end = begins[number + 1] if number + 1 < len(begins) else len(ids)
            for t in range(begin, end):
                want = REWARDS[i] - value if policy[t] else 0.0
                assert credit[i, t].item() == pytest.approx(want, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("iterations", [1, 2])
def test_images_are_refused(tmp_path, iterations):
    picture = tiny_vision.image(9)
    prompt = [{"role": "user", "content": "1+1="}]
    data = [{"prompt": prompt, "image": picture, "answer": "2"}] * 8
    trainer = tiny.trainer(
        tmp_path,
        model=tiny_vision.model(),
        processing_class=tiny_vision.processor(),
        reward_funcs=asked.rewarded(REWARDS),
        train_dataset=Dataset.from_list(data),
        settings=tiny.DEFAULT
        | {"method": "probe", "max_completion_length": 4, "num_iterations": iterations},
    )
    tiny_chat.script(trainer, ["b"])
    with pytest.raises(NotImplementedError, match="these prompts or completions hold images"):
        score(trainer, data)


# -- process, by steps -----------------------------------------------------------------------------


def test_step_rewards_by_steps(tmp_path):
    """c counts the steps of `process`; with c = 1 it is DeepSeekMath's sum, as by tokens."""
    ends = [[2, 5], [1], [3, 4], []] * 2

    def steps(completions, **columns):
        return [[(end, float(i % 3 + end)) for end in own] for i, own in enumerate(ends)]

    texts = ["abcdef", "abc", "abcde", "ab"] * 2
    found = {}
    for decay, unit in itertools.product((0.5, 1.0), ("step", "token")):
        trainer = tiny.trainer(
            tmp_path / f"{decay}{unit}",
            reward_funcs=asked.rewarded(REWARDS),
            rollout_func=tiny.scripted(completions(texts)),
            settings=tiny.DEFAULT | {"method": "process", "trace_per": unit, "trace_lambda": decay},
            model=tiny.model(vocab_size=asked.NEWLINE + 1),
            processing_class=asked.tokenizer(),
            process_reward_funcs=steps,
        )
        found[decay, unit] = score(trainer)["advantages"]
    torch.testing.assert_close(found[1.0, "step"], found[1.0, "token"])
    whole = found[1.0, "token"][0]
    last, first = whole[3], whole[0] - whole[3]
    want = torch.tensor([first + 0.5 * last] * 3 + [last] * 3 + [0.0])
    torch.testing.assert_close(found[0.5, "step"][0], want)


# -- training --------------------------------------------------------------------------------------


def random_prompts(count=64):
    data = [{"prompt": f"{i % 10}+{i // 10}=", "answer": str(i * 7 % 11)} for i in range(count)]
    return Dataset.from_list(data)


def test_a_worthless_probe_trains_like_rloo(tmp_path):
    """Golds that have nothing to do with the reward, and more groups than the calibration needs."""
    settings = {
        "per_device_train_batch_size": 32,
        "max_steps": 10,
        "step_ends": 2,
        "trace_lambda": 0.8,
        "scale_rewards": "group",
    }

    def rloo_credit(batch):
        size = batch.group_size
        return (batch.advantage_B * size / (size - 1))[:, None] * batch.mask_BT

    runs = []
    for name, own in (("probe", settings | TRAINED), ("rloo", settings)):
        plain = {} if name == "probe" else {"td_error": rloo_credit}
        if plain:
            own = {k: v for k, v in own.items() if k not in ("step_ends", "trace_lambda")}
            config = tiny.DEFAULT | {"method": "grpo", "loss_type": "dapo"} | own
        else:
            config = tiny.DEFAULT | {"method": "probe", "probe_text": "#"} | own
        trainer = tiny.trainer(
            tmp_path / name, settings=config, train_dataset=random_prompts(), **plain
        )
        trainer.train()
        runs.append(trainer)
    probe, plain = runs
    assert probe._probe.calibration.groups > 70  # it could have started
    assert [e["probe/in_use"] for e in probe.state.log_history if "loss" in e] == [0] * 10
    torch.testing.assert_close(tiny.parameters(probe), tiny.parameters(plain), rtol=1e-4, atol=1e-5)


def knowing(trainer):
    """Puts probes in the model's place that know something of the reward to come."""
    generator = torch.Generator().manual_seed(0)
    last = {}
    scored = trainer._scored_batch

    def seen(*args):
        last["batch"] = scored(*args)
        return last["batch"]

    def log_probs(batch, continuations, gold_tokens):
        rewards = batch.reward_N[batch.rows].tolist()
        noise = torch.randn(len(continuations), generator=generator)
        logits = [
            4 * rewards[row] - 2 + e.item()
            for (row, *_), e in zip(continuations, noise, strict=True)
        ]
        return [
            torch.nn.functional.logsigmoid(torch.full((count,), logit))
            for logit, count in zip(logits, gold_tokens, strict=True)
        ]

    trainer._scored_batch, trainer._continuation_log_probs = seen, log_probs


def coins(completions, **columns):
    return [float(text.count("a") + text.count("b") > 0) for text in completions]


def test_a_probe_that_knows_comes_into_use_and_its_credit_is_the_definitions(tmp_path):
    settings = {
        "per_device_train_batch_size": 32,
        "max_steps": 8,
        "trace_lambda": 0.5,
        "scale_rewards": "batch",
        "step_ends": 3,
    }
    trainer = tiny.trainer(
        tmp_path,
        reward_funcs=coins,
        settings=tiny.DEFAULT | {"method": "probe"} | settings,
        train_dataset=random_prompts(),
    )
    knowing(trainer)
    kept = []
    with_probes = trainer._with_probes
    trainer._with_probes = lambda *args: kept.append(with_probes(*args)) or kept[-1]
    inputs = tiny.capture_inputs(trainer)
    trainer.train()
    used = [entry["probe/in_use"] for entry in trainer.state.log_history if "loss" in entry]
    assert used[0] == 0
    assert used[-1] == 1
    signal = kept[-1]
    assert signal.segments.used_B.all()
    assert not signal.advantage_B.any()
    std = signal.reward_B.double().std().item() + 1e-4
    for i in range(32):
        number = signal.segment_BT[i].tolist()
        n = sum(k >= 0 for k in number)
        ends = [t + 1 == n or number[t] != number[t + 1] for t in range(n)]
        values = signal.segments.value_BS[i].tolist()
        want = segment_oracles.probe_credit(
            ends, [1] * n, values, signal.reward_B[i].item(), std, 0.5
        )
        row = inputs[-1]["advantages"][i]
        assert any(
            other[:n].tolist() == pytest.approx(want, rel=1e-3, abs=1e-5)
            for other in inputs[-1]["advantages"]
        ), row


@pytest.mark.parametrize(("strength", "warnings"), [(0.0, 1), (3.0, 0)])
def test_the_log_says_when_the_probe_knows_nothing_once(tmp_path, caplog, strength, warnings):
    """Its answers are noise, as those of a real model are: no batch's AUC stays below 0.6."""
    settings = {"max_steps": 30, "probe_calibration": True, "save_strategy": "no"}
    texts = ["a\nb\nc\nd", "b\nb\nc\nd", "c\nb\nc\nd", "d\nb\nc\nd"] * 2
    rewards = [1.0, 0.0, 0.0, 1.0] * 2
    generator = torch.Generator().manual_seed(0)
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, texts=texts, rewards=rewards, settings=settings)

        def noise(batch, continuations, gold_tokens):
            drawn = torch.randn(len(gold_tokens), generator=generator).tolist()
            return [
                torch.full((count,), -9.0 + value + strength * rewards[row % 8])
                for (row, _, _), count, value in zip(continuations, gold_tokens, drawn, strict=True)
            ]

        trainer._continuation_log_probs = noise
        trainer.train()
    history = trainer.state.log_history
    each = [e["probe/auc_before_last_quarter"] for e in history if "reward" in e]
    assert strength or (max(each) > 0.65 and abs(sum(each) / len(each) - 0.5) < 0.05)
    assert ["probe/auc_recent" in e for e in history if "reward" in e] == [False] * 19 + [True] * 11
    said = [r.getMessage() for r in caplog.records if "auc_recent" in r.getMessage()]
    assert len(said) == warnings
    for message in said:
        assert re.search(r"probe/auc_recent was 0\.\d+ at step 20,", message)
        assert "probe_text='auto'" in message


def test_the_log_says_it_once_however_often_the_probe_crosses_the_line(caplog):
    watch = WarnOfNoLearning([PROBE_KNOWS_LITTLE])
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    watch.on_train_begin(None, state, None)
    for step, value in enumerate((0.7, 0.59, 0.61, 0.59, 0.62), start=1):
        state.global_step = step
        watch.on_log(None, state, None, logs={"reward": 0.5, "probe/auc_recent": value})
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith("probe/auc_recent was 0.59 at step 2, probe/")


def test_metrics_by_hand(tmp_path):
    """Two segments a completion; Φ knows nothing at first and all before the second."""
    texts = ["ab\ncd", "bb\ncd", "cb\ncd", "db\ncd"] * 2
    rewards = [1.0, 0.0, 0.0, 1.0] * 2
    trainer = build(tmp_path, texts=texts, rewards=rewards)

    def log_probs(batch, continuations, gold_tokens):
        return [
            torch.full((count,), math.log(0.9 if rewards[row] and start else 0.1))
            for (row, start, _), count in zip(continuations, gold_tokens, strict=True)
        ]

    trainer._continuation_log_probs = log_probs
    score(trainer)
    told = logged(trainer)
    assert told["probe/auc_first_quarter"] == 0.5
    assert told["probe/auc_third_quarter"] == 1.0
    assert "probe/auc_second_quarter" not in told  # no segment begins there
    assert told["probe/auc_before_last_quarter"] == pytest.approx((4 * 8 * 0.5 + 4 * 8) / 64)
    assert told["probe/auc_within_groups"] == 1.0  # the first segment's ties are not in it
    assert told["probe/value_mean"] == pytest.approx((0.1 * 12 + 0.9 * 4) / 16)


def test_a_hyperparameter_search_may_turn_it_on_and_off(tmp_path):
    trainer = build(tmp_path, settings={"max_steps": 1})
    for name in ("method", *asked.RAW):
        setattr(trainer.args, name, None)
    trainer.args.method = "grpo"
    trainer.train()
    assert trainer._probe is None
    trainer.args.method, trainer.args.step_ends = "probe", 2
    trainer.train()
    assert trainer._probe.rule.step_ends == 2


def test_a_function_in_the_config_has_its_name_in_files(tmp_path):
    def thirds(ids, texts):
        return []

    trainer = build(tmp_path, settings={"step_ends": thirds})
    assert "thirds" in trainer.args.to_dict()["step_ends"]
    assert "thirds" in trainer.args.to_json_string()
    assert "thirds" in trainer._method_values()["step_ends"]
