"""What the documentation's site takes from outside ``docs/``; a hook of MkDocs, named in ``mkdocs.yml``.

Pages such as the changelog stay where people look for them in a checkout, and are pages of the site as well.
Links between files of the checkout become links between pages. A link to a file that the site lacks fails the
strict build.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGE_OF = {
    "CHANGELOG.md": "outside/changelog.md",
    "CONTRIBUTING.md": "outside/contributing.md",
    "SECURITY.md": "outside/security.md",
    "benchmarks/124M.png": "outside/124M.png",
    "benchmarks/124M_EPYC.png": "outside/124M_EPYC.png",
    "benchmarks/README.md": "outside/benchmarks.md",
    "benchmarks/RESULTS.md": "outside/results.md",
    "cpp/README.md": "outside/core.md",
}
LINK = re.compile(r"(\]\()(?![a-z]+:)([^)\s#]+)")
ROLE = re.compile(r":[a-z]+:<code>(~[\w.]*\.)?")  # as in docstrings: :meth:`~gpt2fast.GPT2.generate`
LOADED = re.compile(r"<(script|link|img|iframe|source)\b[^>]*(src|href)=[\"']?(https?:)?//[^>]*>")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write ``decisions/*.md`` in the navigation out, so that a new decision needs no line there."""
    config.nav = _written_out(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    for path, page in PAGE_OF.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn links between files of the checkout into links between pages."""
    source = Path(str(page.file.abs_src_path)).relative_to(ROOT).parent.as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def linked(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(source, match[2]))
        target = PAGE_OF.get(path, os.path.relpath(path, "docs").replace(os.sep, "/"))
        return match[1] + posixpath.relpath(target, here or ".")

    return LINK.sub(linked, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show the names that docstrings mark with Sphinx's roles as code."""
    return ROLE.sub("<code>", html)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would have the reader's browser load something from another host."""
    if loaded := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {loaded[0]}")
    return output


def _written_out(nav: Any, docs: Path) -> Any:
    """A navigation in which a pattern stands for the files that match it, without README.md."""
    if isinstance(nav, dict):
        return {title: _written_out(items, docs) for title, items in nav.items()}
    if not isinstance(nav, list):
        return nav
    items: list[Any] = []
    for item in nav:
        if isinstance(item, str) and "*" in item:
            found = sorted(path.relative_to(docs).as_posix() for path in docs.glob(item))
            items += [path for path in found if not path.endswith("README.md")]
        else:
            items.append(_written_out(item, docs))
    return items
