"""The value line, δ and the plot of predicted rewards in a real browser, with screenshots."""

import pytest
from made_log import write_log
from test_report_probe import probed

from trl_lambda.report import write_report

pytestmark = pytest.mark.browser
pytest.importorskip("plotly")


def test_the_value_line_stands_above_the_text(opened, tmp_path):
    page = opened(write_report(probed(tmp_path / "run", values=[0.1, 0.9, 0.5]))[0])
    page.wait_for_selector("#values polyline")
    points = page.locator("#values polyline").get_attribute("points").split()
    heights = [float(point.split(",")[1]) for point in points]
    assert len(points) == 2 * 9
    # Downwards: the middle segment has the largest value, the first the smallest.
    assert heights[6] < heights[12] < heights[0]
    assert "from 0.1 to 0.5 before its last segment" in page.locator("#values p").inner_text()
    page.hover('[data-t="4"]')
    said = page.locator("#tooltip").inner_text()
    assert "value V" in said
    page.screenshot(path=tmp_path / "values.png", full_page=True)


def test_tokens_are_shaded_by_their_td_errors(opened, tmp_path):
    page = opened(write_report(probed(tmp_path / "run"))[0])
    page.get_by_label("δ (TD error)", exact=True).check()
    classes = [page.locator(f'[data-t="{t}"]').get_attribute("class") for t in range(9)]
    assert ["plus" in one for one in classes] == [False, False, True] * 3
    page.screenshot(path=tmp_path / "td_errors.png", full_page=True)


def test_predicted_and_observed_rewards_are_drawn(opened, tmp_path):
    page = opened(write_report(probed(tmp_path / "run"))[0])
    page.locator("#tab-run").click()
    page.wait_for_selector("#reliability .scatterlayer .point")
    assert page.locator("#reliability .scatterlayer .point").count() == 10
    page.screenshot(path=tmp_path / "reliability.png", full_page=True)


def test_a_run_without_a_probe_shows_none_of_it(opened, tmp_path):
    page = opened(write_report(write_log(tmp_path / "run", groups=2))[0])
    page.wait_for_selector('[data-t="0"]')
    assert page.locator("#values").is_hidden()
    assert page.get_by_label("δ (TD error)", exact=True).count() == 0
    page.hover('[data-t="0"]')
    assert "value V" not in page.locator("#tooltip").inner_text()
    page.locator("#tab-run").click()
    assert page.locator("#reliability").is_hidden()
