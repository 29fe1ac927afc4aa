"""What runs are made of that other folders' tests have fixtures for, and the browser of the tests of pages."""

import pytest
from playwright.sync_api import sync_playwright

from tests.preparation.conftest import autoencoder_folder, data_fields, latent_config
from tests.support.browser import BROWSER

__all__ = ["autoencoder_folder", "browser", "data_fields", "latent_config"]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()
