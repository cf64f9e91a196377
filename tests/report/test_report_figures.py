"""The PNG figures: written, drawn from the record, at ease with any text."""

import random

import pytest
from made_log import branched_group, group, write_log, write_records

from trl_lambda.report import load_run
from trl_lambda.report.tree import prefix_tree
from trl_lambda.report.visible import visible

figures = pytest.importorskip("trl_lambda.report.figures", exc_type=ImportError)

HOSTILE = ("$\\frac{", "\u202eabc\u202c", "\ud800", "\0\x1b[31m", "中文字", "a" * 100_000, "\n\n")


def test_three_views_of_two_runs(tmp_path):
    runs = [load_run(write_log(tmp_path / f"seed-{seed}", seed=seed)) for seed in (1, 2)]
    paths = figures.write_figures(runs, tmp_path / "report.v1")
    names = ["report.v1-run.png", "report.v1-tree.png", "report.v1-completion.png"]
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_log_without_groups_has_curves_alone(tmp_path):
    run = load_run(write_log(tmp_path / "run", groups=0))
    assert len(figures.write_figures([run], tmp_path / "report")) == 1


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_any_text_is_drawn_as_text(tmp_path):
    rng = random.Random(0)
    made = group("1-0-0", step=1, size=4, tokens=12, rng=rng)
    for row in made["completions"]:
        row["pieces"][-len(HOSTILE) :] = HOSTILE
        row["advantage"][0] = row["reward"] = None
    write_records(tmp_path, [made], rng=rng)
    assert len(figures.write_figures([load_run(tmp_path)], tmp_path / "report")) == 3


def test_branches_stand_below_their_parents_side_by_side():
    ids = ([1, 2], [1, 3], [4], [4])
    rows = [{"ids": i, "reward": 1.0, "group_advantage": 0.0} for i in ids]
    branches = prefix_tree(rows)
    lefts, levels = figures.tree_places(branches)
    places = {b.rows: (x, y) for b, x, y in zip(branches, lefts, levels, strict=True)}
    assert places == {(0, 1, 2, 3): (0, 0), (0, 1): (0, 1), (0,): (0, 2), (1,): (1, 2),
                      (2, 3): (2, 1)}  # fmt: skip


def test_tokens_are_wrapped_without_losing_any():
    pieces = ["a" * 50, "b" * 60, "\n", "中" * 3, ""]
    placed = list(figures.laid_out(pieces))
    assert "".join(text for *_, text in placed) == "a" * 50 + "b" * 60 + "↵" + "中" * 3
    assert placed[1] == (1, 50, 0, "b" * 46)
    assert placed[2] == (1, 0, 1, "b" * 14)
    assert placed[4] == (3, 0, 2, "中" * 3)


def colours(credit):
    """Face colours of a completion's tokens in the figure."""
    row = {"pieces": [f"w{i} " for i in range(len(credit))], "advantage": credit}
    axes = figures.completion_figure(row).axes[0]
    return [tuple(round(c, 3) for c in patch.get_facecolor()[:3]) for patch in axes.patches]


def test_each_sign_has_a_scale_of_its_own():
    """Under a floor of −0.1 blame is a small part of credit, and it can be seen."""
    blamed, nothing, credited = colours([-0.33, 0.0, 8.21])
    assert min(nothing) > 0.99
    assert blamed == tuple(round(c, 3) for c in figures.CREDIT(0.0)[:3])
    assert credited == tuple(round(c, 3) for c in figures.CREDIT(1.0)[:3])
    title = figures.completion_figure({"pieces": ["a", "b"], "advantage": [-0.33, 8.21]})
    assert title.axes[0].get_title(loc="left") == (
        "Tokens with credit up to 8.21 (darkest blue), blame down to −0.33 (darkest orange)"
    )


FORKS = [(0, 0), (0, 4), (0, 12)]


def test_the_tree_of_a_branched_group_names_forks_and_copies():
    made = branched_group("1-0", FORKS, step=1, tokens=12, rng=random.Random(0))
    texts = [text.get_text() for text in figures.tree_figure(made).axes[0].texts]
    assert len(texts) == 3
    assert "#" not in texts[0]
    assert "#1, #3, copy of #1" in texts[1]
    assert "#2" in texts[2]


def drawn_over(completion):
    """(first, last column with a line above, column of the bar or None) and the title."""
    axes = figures.completion_figure(completion).axes[0]
    spans = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
    above = [(left, right) for left, right, top, bottom in spans if top == bottom]
    bars = [left for left, right, top, bottom in spans if top != bottom]
    return above, bars, axes.get_title(loc="left").split("\n")[0]


def test_what_was_taken_over_has_a_line_above_and_the_fork_a_bar():
    made = branched_group("1-0", FORKS, step=1, tokens=12, rng=random.Random(0))["completions"]
    for row in made:
        row["pieces"] = ["ab "] * 12
    assert drawn_over(made[0])[:2] == ([], [])
    above, bars, said = drawn_over(made[1])
    assert above == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert bars == [12]
    assert said.startswith("Forked from completion 1 behind 4 of 12 tokens")
    above, bars, said = drawn_over(made[2])
    assert (above[-1], bars) == ((33, 36), [])
    assert said.startswith("A copy of completion 1")
    made[1] |= {"cut": {"at": 2, "tokens": 3}}  # the fork is among what was left out
    assert drawn_over(made[1])[:2] == ([(0, 3), (3, 6)], [6])


def test_what_has_no_shape_gets_a_name():
    assert visible("a\u202eb\0\ud800\n\t\u2028") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩↵→⟨U+2028⟩"
    assert visible("👩\u200d🔬 é") == "👩\u200d🔬 é"
