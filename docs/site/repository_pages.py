"""A hook of MkDocs: the site also has what its pages link to outside `docs/`, as pages of their own.

The pages are written to be read in the repository, where a link such as `../nami_jax/flow/stages.py` works as it is.
In the site `README.md` is the first page, other Markdown files keep their paths, a source file becomes a page that
shows it, a notebook one that shows its cells, and a folder one that lists its files. A link to what is not there stays,
and fails the strict build.
"""

import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
DOCS = "docs/"
FENCE = re.compile(r"^(```.*?^```)", flags=re.DOTALL | re.MULTILINE)
TARGET = re.compile(r'(?<=\]\()[^)\s]+(?=\))|(?<=\ssrc=")[^"]+(?=")|(?<=\shref=")[^"]+(?=")')
NAME = re.compile(r"\[[\w./]+\.md\]\(([^)\s]+)\)")  # a page by its file's name, which the site does not show
BADGE = re.compile(r"\[!\[([^\]]+)\]\([^)]+\)\]")  # a picture that links: the site fetches none from elsewhere
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n"


def on_config(config: MkDocsConfig) -> None:
    """Names headings as GitHub does, so that one anchor fits both."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what pages link to outside `docs/`, and what these link to in turn."""
    pages = ["README.md", *(DOCS + file.src_uri for file in files.documentation_pages())]
    seen = set(pages)
    while pages:
        page = pages.pop()
        if not page.startswith(DOCS) or (ROOT / page).is_dir():
            files.append(_added(page, config))
        if page.endswith(".md"):
            found = {path for target in _targets((ROOT / page).read_text()) if (path := _path(page, target))} - seen
            pages += [path for path in found if not path.startswith(DOCS) or (ROOT / path).is_dir()]
            seen |= found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to their pages, which go by their titles."""
    del config, files
    here = page.file.src_uri
    source = DOCS + here if (ROOT / DOCS / here).exists() else here

    def link(match: re.Match[str]) -> str:
        path = _path(source, match[0])
        if path is None:
            return match[0]
        _, mark, anchor = match[0].partition("#")
        return posixpath.relpath(_uri(path), posixpath.dirname(here) or ".") + mark + anchor

    def title(match: re.Match[str]) -> str:
        path = _path(source, match[1])
        heading = None if path is None else re.search(r"^# (.+)", (ROOT / path).read_text(), flags=re.MULTILINE)
        return match[0] if heading is None else f"[{heading[1]}]({match[1]})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else TARGET.sub(link, NAME.sub(title, part)) for part in parts)


def _targets(markdown: str) -> Iterator[str]:
    for part in FENCE.split(markdown):
        if not part.startswith("```"):
            yield from TARGET.findall(part)


def _path(page: str, target: str) -> str | None:
    """Returns the path in the repository that a link of a page names, or None for other links."""
    name = target.partition("#")[0]
    if not name or ":" in name:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
    return path if (ROOT / path).exists() else None


def _uri(path: str) -> str:
    """Returns where the site has a file of the repository."""
    inside = path.removeprefix(DOCS)
    if (ROOT / path).is_dir():
        return f"{inside}/files.md"
    return inside if path.startswith(DOCS) or path.endswith(".md") else f"{path}.md"


def _shown(cell: Mapping[str, Any]) -> str:
    source = "".join(cell["source"])
    return BADGE.sub(r"[\1]", source) if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"


def _added(path: str, config: MkDocsConfig) -> File:
    file = ROOT / path
    if file.is_dir():
        names = sorted(entry.name for entry in os.scandir(file) if entry.is_file())
        content = f"{UNSEARCHED}# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    elif path.endswith(".ipynb"):
        content = UNSEARCHED + "\n\n".join(map(_shown, json.loads(file.read_text())["cells"]))
    elif path.endswith(".md"):
        return File.generated(config, path, abs_src_path=str(file))
    else:
        content = f"{UNSEARCHED}# {path}\n\n````{file.suffix[1:]}\n{file.read_text()}````\n"
    return File.generated(config, _uri(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV)
