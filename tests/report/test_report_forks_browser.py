"""Branched groups in a real browser. Each test leaves a screenshot in its `tmp_path`."""

import random

import pytest
from made_log import branched_group, group, write_records

from trl_lambda.report import write_report

pytestmark = pytest.mark.browser
pytest.importorskip("plotly")

# Roots 1, 2 and 8; two forks of 1 at one token, a fork of a fork, a copy of 2, a fork of 2.
FORKS = [(0, 0), (1, 0), (0, 20), (0, 20), (2, 40), (1, 60), (1, 7), (7, 0)]
HOSTILE = ("<script>alert(1)</script>", '<img src=x onerror="alert(2)">', "\u202e", "</div>")


@pytest.fixture
def page(opened, tmp_path):
    rng = random.Random(3)
    made = branched_group("1-0", FORKS, step=1, tokens=60, rng=rng)
    for row in made["completions"]:
        row["advantage"] = [0.5] * 60
        row["pieces"][20] = HOSTILE[0]  # the token at which two completions were forked
    made["completions"][0]["pieces"][: len(HOSTILE)] = HOSTILE
    write_records(tmp_path, [made], rng=rng)
    page = opened(write_report(tmp_path)[0])
    page.wait_for_selector("#tree .slicetext")
    yield page
    page.screenshot(path=tmp_path / "forks.png", full_page=True)


def choose(page, number):
    page.locator("#rows button").nth(number - 1).click()
    # A frame later. Not wait_for_function, whose second look is an eval that the page forbids.
    page.locator("#text [data-t]").first.wait_for()


def entries(page, selector):
    """Numbers of the tokens with a class."""
    return [int(token.get_attribute("data-t")) for token in page.locator(f"#text {selector}").all()]


def badge(page, t):
    """What is seen before token t."""
    read = "e => { const s = getComputedStyle(e, '::before'); return [s.content, s.display]; }"
    content, display = page.locator(f'[data-t="{t}"]').evaluate(read)
    return content if display != "none" else None


def test_a_fork_is_marked_at_its_token_and_says_where_it_comes_from(page):
    choose(page, 3)
    assert entries(page, ".forked-here") == [20]
    assert badge(page, 20) == '"forked from 1"'
    page.hover('[data-t="20"]')
    said = page.locator("#tooltip").inner_text()
    assert "forked here from completion 1" in said
    assert "completion 4 forked here" in said
    assert HOSTILE[0] in said
    assert entries(page, ".taken-over") == list(range(20))
    line = "e => getComputedStyle(e).borderTopWidth"
    widths = [page.locator(f'[data-t="{t}"]').evaluate(line) for t in (19, 20)]
    assert widths == ["2px", "0px"]
    page.hover('[data-t="19"]')
    assert "taken over: completion 1 sampled it" in page.locator("#tooltip").inner_text()
    assert "first 20 tokens" in page.locator("#origin").inner_text()
    page.focus('[data-t="20"]')  # told without a pointer, too
    assert "forked here from completion 1" in page.locator("#tooltip").inner_text()


def test_a_fork_of_a_fork_names_who_sampled_each_token(page):
    choose(page, 5)
    assert entries(page, ".forked-here") == [40]
    assert badge(page, 40) == '"forked from 3"'
    for token, sampled in ((10, 1), (30, 3)):
        page.hover(f'[data-t="{token}"]')
        said = page.locator("#tooltip").inner_text()
        assert f"taken over: completion {sampled} sampled it" in said
    page.hover('[data-t="50"]')
    assert "taken over" not in page.locator("#tooltip").inner_text()


def test_the_parent_shows_where_others_were_forked(page):
    choose(page, 1)
    assert entries(page, ".taken-over") == entries(page, ".forked-here") == []
    assert entries(page, ".forks-away") == [20]
    assert badge(page, 20) == '"2 forks"'
    page.hover('[data-t="20"]')
    assert "completions 3 and 4 forked here" in page.locator("#tooltip").inner_text()
    assert page.locator("#origin").inner_text().startswith("A root")
    page.locator("#origin button").first.click()
    assert page.locator('#rows [aria-pressed="true"]').get_attribute("data-row") == "1-0-2"


def test_a_copy_is_said_to_be_one(page):
    said = page.locator("#rows button").all_inner_texts()
    assert "copy of 2" in said[5]
    assert [f"fork of {n} at token {t}" in said[i] for i, n, t in ((2, 1, 21), (4, 3, 41))] == [
        True
    ] * 2
    assert all("root" in said[i] for i in (0, 1, 7))
    choose(page, 6)
    assert entries(page, ".taken-over") == list(range(60))
    assert entries(page, ".forked-here") == []
    assert page.locator("#origin").inner_text().startswith("A copy of completion 2")
    assert "#2, copied as #6" in page.locator("#tree").text_content()


def test_the_tree_is_that_of_the_forks(page):
    assert page.locator("#tree-forks").is_visible()
    page.locator("#tree .slice").filter(has_text="#4").click()
    page.wait_for_selector("#filter button")
    assert page.locator("#rows button").count() == 1
    assert "completion 4 from completion 1" in page.locator("#branch").inner_text()
    page.locator("#origin button").first.click()  # to one that is not in the box
    assert page.locator('#rows [aria-pressed="true"]').get_attribute("data-row") == "1-0-0"
    assert page.locator("#rows button").count() == 8


def test_text_of_models_stays_text(page):
    choose(page, 3)
    assert HOSTILE[0] in page.locator("#text").inner_text()
    choose(page, 1)
    assert HOSTILE[1] in page.locator("#text").inner_text()
    assert page.locator("img, #tree a, iframe").count() == 0


def test_a_fork_among_tokens_that_were_left_out(opened, tmp_path):
    rng = random.Random(3)
    made = branched_group("1-0", [(0, 0), (0, 30)], step=1, tokens=12, rng=rng)
    for row in made["completions"]:
        row |= {"cut": {"at": 5, "tokens": 49}}
        row["pieces"][5] = "⟨… 49 tokens left out …⟩"
    made["completions"][1]["ids"][5] = -2
    write_records(tmp_path, [made], rng=rng)
    page = opened(write_report(tmp_path)[0])
    page.wait_for_selector("#tree .slicetext")
    choose(page, 2)
    assert entries(page, ".forked-here") == [5]
    assert entries(page, ".taken-over") == [0, 1, 2, 3, 4]
    page.hover('[data-t="5"]')
    said = page.locator("#tooltip").inner_text()
    assert "forked here from completion 1, among the tokens left out" in said
    assert "25 tokens left out" in page.locator("#branch .written").inner_text()
    page.screenshot(path=tmp_path / "cut.png", full_page=True)


def test_an_independent_group_says_nothing_of_forks(opened, tmp_path):
    rng = random.Random(3)
    write_records(tmp_path, [group("1-0", step=1, size=4, tokens=12, rng=rng)], rng=rng)
    page = opened(write_report(tmp_path)[0])
    page.wait_for_selector("#tree .slicetext")
    assert page.locator("#origin, #tree-forks").locator("visible=true").count() == 0
    assert page.locator("#text [data-mark], #text .taken-over").count() == 0
    assert "root" not in page.locator("#rows").inner_text()
