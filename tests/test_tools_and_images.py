"""Tools, environments and images, through TRL's own tool loop and vision path."""

import itertools

import oracles
import pytest
import tiny
import tiny_chat
import tiny_vision
import torch
from datasets import Dataset
from tiny_chat import dice, in_order, script, script_first_turn, transcript
from trl import GRPOTrainer

from trl_lambda import LambdaGRPOTrainer

CALL = "[roll count=2]"
# What the model says and what the tool answers, in turn. The first group splits at a result, after
# one and before any; of the second, two call a second time.
DIALOGUES = [
    [CALL, "5", "ab"],
    [CALL, "6", "ab"],
    [CALL, "5", "ac"],
    ["no"],
    [CALL, "5", CALL, "6", "b"],
    [CALL, "5", CALL, "5", "b"],
    [CALL, "5", "b"],
    ["on"],
]
REWARDS = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 1.0]
GROUPS = [0] * 4 + [1] * 4
SETTINGS = [
    {},
    {"td_error": "tree", "trace_lambda": 0.9},
    {"td_error": "terminal"},
    {"trace_style": "both", "normalize_trace": False},
    {"trace_mode": "weight"},
]
TRAINING = [
    {},
    {"td_error": "tree", "num_iterations": 2},
    {"td_error": "group", "trace_mode": "ratio", "beta": 0.04, "num_iterations": 2},
]


def question(number: int) -> list[dict]:
    return [{"role": "user", "content": f"{number}+1="}]


def rows(**columns) -> list[dict]:
    """Two groups of four; a column has an entry for each group."""
    return [
        {"prompt": question(group), **{name: entries[group] for name, entries in columns.items()}}
        for group in GROUPS
    ]


def build(tmp_path, *, vision=False, rewards=REWARDS, settings=None, data=None, **kw):
    """A trainer on the chat or the vision model; rewards go by the row of the batch."""

    def by_row(completions, **columns):
        return [rewards[i % len(rewards)] for i in range(len(completions))]

    # A sampled <image> in a completion would stand for an image that is not there.
    image_id = tiny_chat.tokenizer().convert_tokens_to_ids(tiny_chat.IMAGE_TOKEN)
    fixed = {"max_completion_length": 60, "generation_kwargs": {"suppress_tokens": [image_id]}}
    return tiny.trainer(
        tmp_path,
        kw.pop("cls", LambdaGRPOTrainer),
        model=tiny_vision.model() if vision else tiny_chat.model(),
        processing_class=tiny_vision.processor() if vision else tiny_chat.tokenizer(),
        reward_funcs=by_row,
        train_dataset=Dataset.from_list(data or rows()),
        settings=fixed | (settings or {}),
        **kw,
    )


def with_dialogues(tmp_path, dialogues, **kw):
    trainer = build(tmp_path, tools=[dice(in_order(dialogues, 1))], **kw)
    script(trainer, in_order(dialogues, 0))
    return trainer


def score(trainer, batch=None):
    trainer.model.train()
    return trainer._generate_and_score_completions(batch or rows())


def assert_credit(trainer, output, transcripts):
    """Tokens, tool mask and credit are those of the transcripts."""
    ids, policy = zip(*transcripts, strict=True)
    lengths = output["completion_mask"].sum(1).tolist()
    pairs = list(zip(output["completion_ids"].tolist(), lengths, strict=True))
    assert [row[:n] for row, n in pairs] == list(ids)
    masks = zip(output["tool_mask"].tolist(), lengths, strict=True)
    assert [row[:n] for row, n in masks] == list(policy)
    mask = torch.zeros(output["completion_ids"].shape)
    for row, own in zip(mask, policy, strict=True):
        row[: len(own)] = torch.tensor(own)
    want, _ = oracles.credit(trainer._rule, ids, GROUPS, REWARDS, mask, None, "none")
    torch.testing.assert_close(output["advantages"].double(), want, rtol=1e-5, atol=1e-6)


def assert_trains(trainer):
    start = tiny.parameters(trainer).clone()
    trainer.train()
    assert torch.isfinite(tiny.parameters(trainer)).all()
    assert not torch.equal(tiny.parameters(trainer), start)


# -- tools -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tool_results_are_state_but_not_policy(tmp_path, settings):
    trainer = with_dialogues(tmp_path, DIALOGUES, settings=settings)
    output = score(trainer)
    assert_credit(trainer, output, map(transcript, DIALOGUES))


def test_different_tool_results_split_process_sets(tmp_path):
    results = ["5", "6", "5", "4", "5", "5", "5", "5"]
    dialogues = [[CALL, result, "b"] for result in results]
    rewards = [1.0, 0.0, 0.0, 0.0] * 2
    trainer = with_dialogues(tmp_path, dialogues, rewards=rewards, settings={"trace_style": "none"})
    credit = score(trainer)["advantages"]
    advantage = torch.tensor([0.75, -0.25, -0.25, -0.25] * 2)
    call, answer = credit[:, 0], credit[:, -1]
    torch.testing.assert_close(call, advantage / 4)
    torch.testing.assert_close(answer, advantage / torch.tensor([2, 1, 2, 1, 4, 4, 4, 4]))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("room", [-1, 0, 1])
def test_completions_that_end_at_a_tool_result(tmp_path, settings, room):
    """No room for the result: TRL drops it. Room for just that: no policy token follows it."""
    dialogues = [[CALL, "5", "ab"], [CALL, "6", "ab"], ["a"], [CALL, "5", "ab"]] * 2
    budget = len(transcript([CALL, "5"])[0]) + room
    settings = settings | {"max_completion_length": budget}
    trainer = with_dialogues(tmp_path, dialogues, settings=settings)
    # Dropped results are rolled, but nobody is asked to answer them.
    script(trainer, in_order([d[:1] if room < 0 else d for d in dialogues], 0))
    output = score(trainer)
    cut = [transcript(dialogue[:1] if room < 0 else dialogue) for dialogue in dialogues]
    assert_credit(trainer, output, [(ids[:budget], policy[:budget]) for ids, policy in cut])


@pytest.mark.parametrize("settings", TRAINING, ids=str)
def test_trains_with_tools(tmp_path, settings):
    trainer = build(tmp_path, tools=[dice(["5", "6", "4"])], settings=settings)
    script_first_turn(trainer, [CALL, CALL, "no", CALL])
    inputs = tiny.capture_inputs(trainer)
    assert_trains(trainer)
    assert len(inputs) == 3
    for step in inputs:
        assert 0 < (step["tool_mask"] == 0).sum() < step["completion_mask"].sum()
        assert not step["advantages"][step["tool_mask"] == 0].any()
    assert trainer.state.log_history[0]["tools/call_frequency"] >= 0.75


# -- environments ------------------------------------------------------------------------------


def worlds(observations):
    """Environments, each of which always shows the same of these."""
    shown = itertools.cycle(observations)

    class World:
        def __init__(self):
            self.view = next(shown)

        def reset(self, **row):
            return self.view

    return World


@pytest.mark.parametrize(
    ("observations", "sizes"),
    [
        ("aaaa", [4, 4, 4, 4]),
        ("abab", [2, 2, 2, 2]),
        ("abcc", [1, 1, 2, 2]),
        ("abcd", [1, 1, 1, 1]),
        ([None, None, "a", "ab"], [2, 2, 1, 1]),
    ],
)
def test_only_equal_observations_share_prefixes(tmp_path, observations, sizes):
    trainer = build(
        tmp_path,
        rewards=[1.0, 0.0, 0.0, 0.0],
        environment_factory=worlds(observations),
        settings={"trace_style": "none"},
    )
    script(trainer, ["no"])
    output = score(trainer)
    prompts = [
        trainer._tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)
    ]
    shown = [view or "" for view in observations] * 2
    assert prompts == [f"u:{g}+1={view}<eos>a:" for g, view in zip(GROUPS, shown, strict=True)]
    sizes = torch.tensor(sizes * 2)
    advantage = torch.tensor([0.75, -0.25, -0.25, -0.25] * 2)
    want = (advantage / sizes)[:, None].expand_as(output["advantages"])
    torch.testing.assert_close(output["advantages"], want)
    metrics = trainer._metrics["train"]
    assert metrics["process_sets/size"] == [pytest.approx(sizes.float().mean().item())]


def test_trains_in_environments(tmp_path):
    """Prompts of different lengths in one group: the sets are found under left padding."""
    settings = {"trace_mode": "ratio", "beta": 0.04, "max_completion_length": 4}
    trainer = build(
        tmp_path, environment_factory=worlds(["", "a", "bcd", "bcd"]), settings=settings
    )
    script(trainer, ["no", "na"])
    assert_trains(trainer)
    # n is shared by the two whose prompts are equal, o by none of the four.
    assert trainer.state.log_history[0]["process_sets/size"] == pytest.approx(1 + 0.5 / 3)


# -- images ------------------------------------------------------------------------------------


def with_images(column: str) -> list[dict]:
    """`images` are one in the first group and two in the second."""
    if column == "image":
        return rows(image=[tiny_vision.image(10), tiny_vision.image(200)])
    pictures = [tiny_vision.image(shade) for shade in (10, 100, 200)]
    return rows(images=[pictures[:1], pictures[1:]])


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("settings", TRAINING, ids=str)
def test_trains_on_images(tmp_path, settings, column):
    settings = settings | {"max_completion_length": 8}
    trainer = build(tmp_path, vision=True, data=with_images(column), settings=settings)
    seen = tiny.capture_inputs(trainer)
    tower = trainer.model.model.vision_tower
    start = [p.detach().clone() for p in tower.parameters()]
    assert_trains(trainer)
    assert all(len(step["pixel_values"]) == sum(step["num_images"]) for step in seen)
    assert any(not torch.equal(a, b) for a, b in zip(start, tower.parameters(), strict=True))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_credit_on_images_beside_a_tool_of_words(tmp_path, settings):
    trainer = with_dialogues(
        tmp_path, DIALOGUES, vision=True, data=with_images("image"), settings=settings
    )
    output = score(trainer, with_images("image"))
    assert output["num_images"] == [1] * 8
    assert_credit(trainer, output, map(transcript, DIALOGUES))


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_neutral_is_stock_on_images(tmp_path, beta):
    settings = {"loss_type": "dapo", "scale_rewards": "group", "max_completion_length": 8}
    settings |= {"beta": beta, "num_iterations": 2}
    runs = []
    for cls, extra in ((GRPOTrainer, {}), (LambdaGRPOTrainer, tiny.NEUTRAL)):
        trainer = build(
            tmp_path / cls.__name__,
            cls=cls,
            vision=True,
            data=with_images("images"),
            settings=settings | extra,
        )
        assert_trains(trainer)
        runs.append(trainer)
    tiny.assert_same_run(runs[1], runs[0])


def look(count: str) -> list:
    """Takes pictures.

    Args:
        count: How many.
    """
    picture = {"type": "image", "image": tiny_vision.image(50)}
    return [picture] * int(count) + [{"type": "text", "text": "seen"}]


@pytest.mark.parametrize("data", [rows(), with_images("image"), with_images("images")])
@pytest.mark.parametrize("callers", [1, 8])
def test_images_from_tools_are_refused(tmp_path, callers, data):
    trainer = build(tmp_path, vision=True, data=data, tools=[look])
    first = ["[look count=2]" if i < callers else "no" for i in range(8)]
    script(trainer, [*first, *["b"] * callers])
    with pytest.raises(NotImplementedError, match="A tool or an environment returned images"):
        score(trainer, data)


def test_images_from_environments_are_refused(tmp_path):
    trainer = build(tmp_path, vision=True, environment_factory=worlds([look("1")]))
    script(trainer, ["b"])
    with pytest.raises(NotImplementedError, match="A tool or an environment returned images"):
        score(trainer)


def test_images_of_environments_are_fine_where_no_prefix_is_shared(tmp_path):
    settings = {"process_set_weighting": False}
    trainer = build(
        tmp_path, vision=True, environment_factory=worlds([look("1")]), settings=settings
    )
    script(trainer, ["b"])
    assert score(trainer)["num_images"] == [1] * 8


def test_images_in_the_messages_of_the_data_set(tmp_path):
    picture, question = ({"type": "image"} | {"image": tiny_vision.image(9)}, {"type": "text"})
    data = [{"prompt": [{"role": "user", "content": [picture, question | {"text": "1+1="}]}]}] * 8
    trainer = build(tmp_path, vision=True)
    script(trainer, ["b"])
    assert score(trainer, data)["num_images"] == [1] * 8
