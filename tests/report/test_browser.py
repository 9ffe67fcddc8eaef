"""The page in a real browser: every click that its text promises.

Needs the package playwright and a browser of the Chromium family on the path (Debian: `apt-get install chromium`);
playwright's own browsers are not asked for.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusewire.report.data import Report
from fusewire.report.page import page
from tests.report.samples import FUSED, UNFUSED, data, network, report_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
pytest.importorskip("jinja2")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NASTY = "</script><img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the path")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with its sandbox
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(network(NASTY), {NASTY: data()}, {"cpu": FUSED, "cpu, unfused": UNFUSED}, name=f"{NASTY}.onnx")


class Opened:
    """A page in a browser, and what went wrong in it."""

    def __init__(self, browser: Any, text: str, folder: Path, **options: Any) -> None:
        file = folder / "report.html"
        file.write_text(text, encoding="utf-8")
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **options})
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        assert self.requests == [file.as_uri()]

    def node(self, target: int, group: int) -> Any:
        return self.page.locator(f'.node[data-target="{target}"][data-group="{group}"]')

    def transform(self) -> tuple[float, ...]:
        text = self.page.locator("#view").get_attribute("transform")
        return tuple(float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", text))

    def close(self) -> None:
        assert not self.wrong
        assert len(self.requests) == 1, "the page asks for nothing but itself"
        self.page.close()


@pytest.fixture
def opened(browser: Any, report: Report, tmp_path: Path) -> Iterator[Opened]:
    found = Opened(browser, page(report), tmp_path)
    yield found
    found.close()


def test_a_click_tells_all_of_a_group(opened: Opened, report: Report) -> None:
    group = report.targets[1].groups[4]  # add, of the second region
    assert group.ops == ("add",) and group.region == 1
    opened.node(1, 4).click()
    panel = opened.page.locator("#panel")
    assert panel.locator("h3").inner_text() == "B: add"
    assert panel.locator(".name").inner_text() == group.name
    assert group.source is not None and group.loops is not None and group.error is not None
    for tab, place in (("ir", group.ir), ("loops", group.loops), ("source", group.source)):
        panel.locator(f"[data-tab={tab}]").click()
        sync_api.expect(panel.locator("pre")).not_to_be_empty()
        assert panel.locator("pre").text_content() == report.texts[place]
    panel.locator("[data-tab=choice]").click()
    rows = panel.locator("#tab tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [c.name for c in group.candidates]
    assert [row.split("\t")[2] for row in rows] == [c.reason for c in group.candidates]
    panel.locator("[data-tab=error]").click()
    assert panel.locator(".histogram rect").count() >= 7
    assert f"0 of {group.error.size}" in panel.inner_text()


def test_the_same_region_lights_up_in_the_other_target(opened: Opened) -> None:
    opened.node(0, 1).click()
    classes = "els => els.map(e => [Number(e.dataset.target), Number(e.dataset.group)])"
    assert opened.page.locator(".node.beside").evaluate_all(classes) == [[1, 3], [1, 4], [1, 5]]
    assert opened.page.locator(".node.chosen").evaluate_all(classes) == [[0, 1]]
    opened.page.locator("#panel .beside .swap").nth(2).click()  # the last group of B
    assert opened.page.locator(".node.chosen").evaluate_all(classes) == [[1, 5]]
    assert opened.page.locator("#regions tr.chosen").get_attribute("data-region") == "1"


def test_keys(opened: Opened) -> None:
    opened.node(0, 0).focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#panel h3").inner_text() == "A: conv2d + add + relu"


def test_wheel_drag_and_buttons(opened: Opened) -> None:
    stage = opened.page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    x, y = box["x"] + 30, box["y"] + box["height"] - 60
    before = opened.transform()
    opened.page.mouse.move(x, y)
    opened.page.mouse.wheel(0, -300)
    opened.page.wait_for_function("k => view.k > k", arg=before[2])
    closer = opened.transform()
    # The point under the pointer stays where it is.
    for axis, at in ((0, 29), (1, box["height"] - 61)):
        assert (at - before[axis]) / before[2] == pytest.approx((at - closer[axis]) / closer[2], abs=2)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 40, y - 25, steps=5)
    opened.page.mouse.up()
    moved = opened.transform()
    assert (moved[0] - closer[0], moved[1] - closer[1]) == pytest.approx((40, -25), abs=0.5) and moved[2] == closer[2]
    assert opened.page.locator(".node.chosen").count() == 0, "a drag is no click"
    opened.page.locator("[data-zoom=out]").click()
    assert opened.transform()[2] == pytest.approx(moved[2] / 1.3)
    opened.page.locator("[data-zoom=fit]").click()
    inside = "e => { const [a, b] = [e, document.querySelector('.stage')].map(n => n.getBoundingClientRect());"
    inside += " return a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom }"
    assert all(node.evaluate(inside) for node in opened.page.locator(".node").all())


def test_the_table_of_regions(opened: Opened, report: Report) -> None:
    rows = opened.page.locator("#regions tbody tr")
    order = "els => els.map(e => Number(e.dataset.region))"
    assert rows.evaluate_all(order) == [0, 1, 2, 3]
    opened.page.locator('#regions th[data-sort="2"]').click()
    times = [r.ms[1] or 0 for r in report.regions]
    assert rows.evaluate_all(order) == sorted(range(4), key=lambda k: -times[k])
    opened.page.locator('#regions th[data-sort="2"]').click()
    assert rows.evaluate_all(order) == sorted(range(4), key=lambda k: times[k])
    opened.page.locator("#filter").fill("POOL")
    assert rows.evaluate_all("els => els.filter(e => !e.hidden).map(e => Number(e.dataset.region))") == [3]
    rows.filter(has_text="pool").click()
    assert opened.page.locator("#panel h3").inner_text() == "A: max_pool2d"


def test_marks_of_the_chart(opened: Opened) -> None:
    mark = opened.page.locator("#accuracy .mark").first
    target, group = mark.get_attribute("data-target"), mark.get_attribute("data-group")
    mark.dispatch_event("click")
    assert opened.node(int(target), int(group)).get_attribute("class").endswith("chosen")


def test_names_are_text(opened: Opened) -> None:
    assert opened.page.locator("h1").inner_text() == f"{NASTY}.onnx"
    assert opened.page.evaluate("window.hacked") is None and opened.page.locator("img").count() == 0
    assert json.loads(opened.page.evaluate("JSON.stringify(report.model)")) == f"{NASTY}.onnx"


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 420, "height": 800}, "color_scheme": "dark"},
        {"viewport": {"width": 1900, "height": 1000}, "color_scheme": "dark"},
        {"viewport": {"width": 420, "height": 800}, "color_scheme": "light"},
    ],
)
def test_narrow_wide_and_dark(options: dict[str, Any], browser: Any, report: Report, tmp_path: Path) -> None:
    opened = Opened(browser, page(report), tmp_path, **options)
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    shade = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(20, 23, 28)") == (options["color_scheme"] == "dark")
    opened.node(0, 0).click()
    assert opened.page.locator("#panel h3").inner_text() == "A: conv2d + add + relu"
    opened.close()


def test_without_scripts_the_summary_still_stands(browser: Any, report: Report, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    file = tmp_path / "report.html"
    file.write_text(page(report), encoding="utf-8")
    plain = context.new_page()
    plain.goto(file.as_uri())
    assert "Results agree" in plain.locator("#summary").inner_text()
    assert plain.locator(".node").count() == len(report.targets[0].groups) + len(report.targets[1].groups)
    context.close()
