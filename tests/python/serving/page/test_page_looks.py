"""How the page looks: light and dark, contrast, phones, focus. And a picture of it for the README."""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from support.browser import Keys, Page
from support.served_page import Gate

PROMPT = "Once upon a time"

#: Text on the page whose contrast with what is behind it is too low, as `[text, ratio]`.
LOW_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
};
const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => part * a + below[at] * (1 - a));
const behind = (element) => {
  if (!element) return [1, 1, 1];
  const colour = rgba(getComputedStyle(element).backgroundColor);
  return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(element.parentElement));
};
const luminance = (colour) => {
  const [r, g, b] = colour.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const hasText = own || element.matches("input, textarea");
  const isVisible = element.checkVisibility({ checkVisibilityCSS: true });
  if (!hasText || !isVisible || element.matches(":disabled, noscript")) continue;
  const ground = behind(element);
  let opacity = 1;
  for (let each = element; each; each = each.parentElement) opacity *= getComputedStyle(each).opacity;
  const [r, g, b, a] = rgba(getComputedStyle(element).color);
  const both = [luminance(over([r, g, b, a * opacity], ground)), luminance(ground)];
  const [light, dark] = both.sort((x, y) => y - x);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < 4.5) low.push([element.textContent || element.id, ratio]);
}
return low;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(page: Page, gate: Gate, scheme: str) -> None:
    page.prefer(scheme)
    assert page.script(LOW_CONTRAST) == []
    page.finished(PROMPT, max_tokens=200, seed=1, stop="zebra", temperature=1.5, top_p=1)
    page.point_at(page.tokens()[3])
    page.wait(page.alternatives)
    kinds = {name for token in page.tokens() for name in token.get_attribute("class").split()}
    assert {"p0", "p1", "p2", "p3", "p4"} <= kinds
    assert page.script(LOW_CONTRAST) == []
    page.finished(PROMPT, texts=2, max_tokens=20)
    gate.answers = [
        (400, {}, {"error": {"message": "no"}}),
        (429, {}, {"error": {"message": "no"}}),
        (401, {}, {}),
    ]
    for kind in ("refused", "busy", "key"):
        page.find("#generate").click()
        page.find(f".notice.{kind}")
        assert page.script(LOW_CONTRAST) == []
    page.expect_problems("400", "429", "401")


def darkness(page: Page) -> str:
    colour = page.script("return getComputedStyle(document.body).backgroundColor")
    return "dark" if sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) < 384 else "light"


def test_it_follows_the_system_until_told_otherwise(page: Page) -> None:
    assert darkness(page) == "light"
    page.prefer("dark")
    assert darkness(page) == "dark"
    page.find("#theme").click()
    assert darkness(page) == "light"
    page.reload()
    assert darkness(page) == "light"
    page.find("#theme").click()
    page.prefer("light")
    assert darkness(page) == "light", "it follows the system again"


@pytest.mark.parametrize("width", [360, 412, 768])
def test_narrow_screens_don_t_scroll_sideways(page: Page, gate: Gate, width: int) -> None:
    def fits() -> bool:
        return page.script("return document.documentElement.scrollWidth") <= width

    page.size(width, 740, touch=True)
    page.reload()
    assert fits()
    assert not page.find("#temperature").is_displayed()
    page.find(".options summary").click()
    page.wait(page.find("#temperature").is_displayed)
    assert fits()
    page.finished("Once upon a time " + "w" * 200, max_tokens=30, seed=123456789012345)
    assert fits()
    page.tap(page.tokens()[4])
    page.wait(page.alternatives)
    assert fits()
    page.finished(PROMPT, texts=3)
    assert fits()
    gate.answers = [(400, {}, {"error": {"message": "x" * 300}})]
    page.find("#generate").click()
    page.find(".notice")
    assert fits()
    page.expect_problems("400")


def test_the_focus_can_be_seen_wherever_it_is(page: Page) -> None:
    page.finished(PROMPT, max_tokens=5)
    seen: set[str] = set()
    for _ in range(60):
        page.press(Keys.TAB)
        element = page.focused
        if element.tag_name == "body":  # past the last, before the first
            continue
        name = element.get_attribute("id") or element.text
        if name in seen:
            break
        marked = page.script(
            "const style = (each) => getComputedStyle(each);"
            "const focused = document.activeElement;"
            "const tint = focused.querySelector('.tint');"
            "if (tint) return style(tint).boxShadow !== 'none';"
            "if (focused.id === 'prompt') return style(focused.closest('.panel')).borderColor"
            "  !== style(document.querySelector('.options')).borderColor;"
            "return style(focused).outlineStyle !== 'none' && parseFloat(style(focused).outlineWidth) >= 1",
        )
        assert marked, name
        seen.add(name)
    assert {"theme", "prompt", "greedy", "stop", "Run again"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_probabilities_are_told_apart_without_colours(page: Page, scheme: str) -> None:
    """Tints get steadily darker on light, lighter on dark, by steps that an eye without colours sees too."""
    page.prefer(scheme)
    page.finished(PROMPT, max_tokens=3)
    tints = page.script(LUMINANCES)
    if scheme == "dark":
        tints = [1 / tint for tint in tints]
    assert all(lighter / darker > 1.08 for lighter, darker in pairwise(tints))


#: Of the paper and of the four tints, plus 0.05, as ratios of contrast take them.
LUMINANCES = (
    LOW_CONTRAST[: LOW_CONTRAST.index("const low = []")]
    + """
const paper = document.querySelector(".sheet");
const tints = [1, 2, 3, 4].map((each) => document.querySelector(`#legend .p${each} > .tint`));
return [paper, ...tints].map((element) => luminance(behind(element)) + 0.05);
"""
)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Where pictures of the page go: a folder of one's choice, to look at them."""
    folder = Path(os.environ.get("GPT2FAST_PAGE_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("name", "scheme", "width", "height"),
    [("light", "light", 1200, 780), ("dark", "dark", 1200, 780), ("phone", "light", 390, 780)],
)
def test_pictures(page: Page, gallery: Path, name: str, scheme: str, width: int, height: int) -> None:
    page.finished("Once upon a time there was a princess", max_tokens=150, seed=7, temperature=0.7)
    page.prefer(scheme)
    page.size(width, height, touch=width < 640)
    if width > 640:
        page.point_at(page.tokens()[5])
        page.wait(page.alternatives)
    picture = page.picture(gallery / f"{name}.png")
    assert struct.unpack(">II", picture[16:24]) == (width, height)
    assert 20_000 < len(picture) < 200_000, "blank, or too large for a README"
