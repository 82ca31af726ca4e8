"""The page's files keep rules that no browser checks: no markup of strings, no other host, nothing unused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpt2fast

STATIC = Path(gpt2fast.__file__).parent / "serving" / "static"
FILES = sorted(STATIC.iterdir())
OF_THE_DOCS = {"docs.css"}


def test_markup_comes_from_the_html_file_alone() -> None:
    unsafe = re.compile(
        r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval|new Function)\b"
    )
    for path in STATIC.glob("*.js"):
        assert unsafe.findall(path.read_text("utf-8")) == [], path.name


def test_the_html_file_has_no_code_and_no_styles() -> None:
    html = (STATIC / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", html) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_other_host_is_named(path: Path) -> None:
    hosts = re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text("utf-8"))
    assert [host for host in hosts if not host.endswith("www.w3.org/2000/svg")] == []


def test_every_file_is_used_and_every_used_file_is_there() -> None:
    used = {"index.html"}
    for path in STATIC.glob("*.html"):
        used |= set(re.findall(r'(?:href|src)="static/([^"]+)"', path.read_text("utf-8")))
    for path in STATIC.glob("*.js"):
        used |= set(re.findall(r'^import .*from "\./([^"]+)";$', path.read_text("utf-8"), re.MULTILINE))
    assert used == {path.name for path in FILES} - OF_THE_DOCS


@pytest.mark.parametrize("path", [*STATIC.glob("*.js"), *STATIC.glob("*.css")], ids=lambda path: path.name)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= 420
    assert max(map(len, lines)) <= 110
    assert lines[0].startswith(("// ", "/* "))
