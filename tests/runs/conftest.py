"""The browser of the tests of pages."""

import pytest
from playwright.sync_api import sync_playwright

from tests.support.browser import BROWSER


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()
