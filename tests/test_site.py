"""The pages as a site: its navigation, its links, what it asks for, and the files beside it that name a version."""

import html.parser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import nami_jax
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
BESIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "configs/README.md", "launch/README.md"]
PAGES = [*(ROOT / page for page in BESIDE), *sorted(DOCS.rglob("*.md"))]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
LINK = re.compile(r"\]\(([^)\s]+)\)|\s(?:src|href)=\"([^\"]+)\"")
BLOCK = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)


def named(entry: Any) -> list[str]:
    """Returns the pages that a part of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in named(part)]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_navigation_names_every_page_once():
    pages = named(SITE["nav"])
    assert set(pages) == {*BESIDE, *(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))}
    assert len(pages) == len(set(pages))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for found in LINK.findall(BLOCK.sub("", page.read_text())):
        name, _, anchor = "".join(found).partition("#")
        if ":" in name:
            continue
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_files_beside_the_package_name_its_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == nami_jax.__version__
    assert re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == nami_jax.__version__  # pyright: ignore[reportOptionalSubscript]


class Requests(html.parser.HTMLParser):
    """Collects what a browser fetches of a page by itself."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes what is loaded with a page, and leaves what a reader may follow."""
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.add(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "source"):
            self.found.add(given.get("src") or "")


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=folder, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_site_is_built_whole_and_asks_for_nothing_from_elsewhere(tmp_path):
    made = build(ROOT, tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    for page in named(SITE["nav"]):
        assert (tmp_path / re.sub(r"(README|index)\.md$", "index.md", page)).with_suffix(".html").is_file(), page
    assert (
        'id="nami_jax.sampling.pipeline.NamiPipeline.from_pretrained"'
        in (tmp_path / "reference" / "drawing.html").read_text()
    )
    for page in tmp_path.rglob("*.html"):
        requests = Requests()
        requests.feed(page.read_text())
        assert not [url for url in requests.found if re.match(r"(https?:)?//", url)], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    for name in ("docs", "mkdocs.yml", *BESIDE[:4], "LICENSE", "CITATION.cff"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for name in ("nami_jax", "configs", "launch", "benchmarks", "notebooks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = tmp_path / "docs" / "faq.md"
    page.write_text(page.read_text() + "\n[a](no_page.md) [b](start.md#no-heading) [c](../nami_jax/no_file.py)\n")
    made = build(tmp_path, tmp_path / "built")
    assert made.returncode == 1
    said = made.stdout + made.stderr
    assert all(name in said for name in ("no_page.md", "#no-heading", "no_file.py", "3 warnings")), said
