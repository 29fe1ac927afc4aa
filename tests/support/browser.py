"""A headless Chromium, and pages in it of which every fault and request is kept."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextlib.contextmanager
def watched_page(
    browser: Browser, address: str, size: Any = WIDE, allowed: Sequence[str] = (), **options: Any
) -> Iterator[tuple[Page, list[str]]]:
    """Opens an empty page; at the end nothing may have failed on it, and no server but `address` been asked.

    Args:
        browser: to open it in.
        address: of the server, without a path.
        size: of the window.
        allowed: words of faults that are expected.
        **options: of the browser's context.

    Yields:
        The page, and the addresses that it asks for.
    """
    context = browser.new_context(viewport=size, locale="en-US", **options)
    page, faults, asked = context.new_page(), [], []
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page, asked
    context.close()
    unexpected = [fault for fault in faults if not any(word in fault for word in allowed)]
    assert not unexpected, unexpected
    elsewhere = [url for url in asked if not url.startswith((f"{address}/", "data:", f"blob:{address}/"))]
    assert not elsewhere, elsewhere


def bounds(element: Locator) -> FloatRect:
    """Returns where an element that is shown lies on the page, in pixels."""
    box = element.bounding_box()
    assert box is not None
    return box
