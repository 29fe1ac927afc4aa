"""The arena's page in a headless Chromium, by keyboard, mouse and touch, against its own server."""

import contextlib
import re

import pytest

from nami_jax.nami1k.ballots import BOTH_BAD, LEFT, RIGHT, TIE, read_ballots
from nami_jax.nami1k.prompt_set import read_prompts
from tests.support.arena import Files
from tests.support.browser import MARKS, PHONE, WIDE, bounds, watched_page

pytestmark = MARKS


@pytest.fixture
def files(tmp_path):
    files = Files(tmp_path)
    yield files
    files.stop()


@contextlib.contextmanager
def opened(browser, address, link, size=WIDE, allowed=(), **options):
    """Opens a rater's page, whose link is asked for once."""
    with watched_page(browser, address, size, allowed, **options) as (page, asked):
        page.goto(address + link)
        page.wait_for_selector("#guide[open]")
        yield page
    assert [url for url in asked if "/r/" in url] == [address + link]


def ready(page):
    page.wait_for_selector("#panes:not(.loading)")
    page.wait_for_selector(".answers button:enabled")


def wait_for_count(page, count):
    page.wait_for_function("text => document.getElementById('count').textContent.startsWith(text)", arg=f"{count} /")
    ready(page)


def answers(files):
    votes = read_ballots(files.votes, read_prompts(files.prompts).digest)
    return votes.answers.tolist()


def test_by_keyboard_alone(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"]) as page:
        page.keyboard.press("Enter")  # the guide's button has the focus
        ready(page)
        for key in ("ArrowLeft", "ArrowUp", "d", "s", "ArrowRight"):
            assert page.is_disabled("#next")
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        wait_for_count(page, 1)
        page.keyboard.press("5")
        page.keyboard.press("w")
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press(" ")
        wait_for_count(page, 2)
        assert answers(files) == [[LEFT, TIE, RIGHT, BOTH_BAD, RIGHT], [LEFT] * 4 + [TIE]]
        now = page.evaluate("task.id")
        page.keyboard.press("ArrowLeft")  # is kept while the pair before is mended
        page.keyboard.press("Backspace")
        page.wait_for_function("id => task.id !== id", arg=now)
        ready(page)
        assert page.locator("[aria-checked=true]").count() == 5
        page.keyboard.press("1")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_function("id => task.id === id", arg=now)
        assert answers(files)[1] == [RIGHT] + [LEFT] * 3 + [TIE]
        assert page.inner_text("#count").startswith("2 /")
        assert page.locator("[aria-checked=true]").count() == 1


def test_keys_for_language_theme_zoom_and_help(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"], color_scheme="light") as page:
        page.keyboard.press("Enter")
        ready(page)
        number = re.sub(r"\D", "", page.inner_text("#prompt"))
        page.keyboard.press("l")
        assert page.inner_text("#prompt") == f"第{number}张图"
        assert page.inner_text("#next") == "下一组"
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        page.keyboard.press("t")
        assert page.evaluate(colour) != light
        place = bounds(page.locator("#left"))
        widths = [place["width"]]
        for _ in range(3):
            page.keyboard.press("z")
            widths.append(bounds(page.locator("#left"))["width"])
        assert widths[0] < widths[1] < widths[2]
        assert widths[3] == widths[0]
        page.keyboard.press("?")
        assert page.is_visible("#guide")
        page.keyboard.press("ArrowLeft")  # no answer while it is open
        page.keyboard.press("Escape")
        assert page.locator("[aria-checked=true]").count() == 0
        page.reload()
        ready(page)  # the guide comes once; language and theme are kept
        assert page.inner_text("#next") == "下一组"
        assert page.evaluate(colour) != light


def test_by_mouse_to_the_end(browser, files):
    address = files.start("--port=0", "--raters=1", "--votes_each=3")
    with opened(browser, address, files.links()["rater-01"]) as page:
        page.click("#begin")
        ready(page)
        for i in range(3):
            for axis, choice in zip(
                ("relevance", "coherence", "aesthetics", "realism", "overall"),
                ("left", "right", "tie", "both_bad", "left"),
                strict=True,
            ):
                page.click(f"[data-axis={axis}][data-choice={choice}]")
            page.keyboard.press("Enter") if i == 1 else page.click(
                "#next"
            )  # the button pressed last is not pressed again
            if i < 2:
                wait_for_count(page, i + 1)
        page.wait_for_selector("#thanks:visible")
        assert "Thank you" in page.inner_text("#thanks")
        assert answers(files) == [[LEFT, RIGHT, TIE, BOTH_BAD, LEFT]] * 3
        page.click("#back")
        ready(page)
        page.click("[data-axis=overall][data-choice=right]")
        page.click("#next")
        page.wait_for_selector("#thanks:visible")
        assert answers(files)[2] == [LEFT, RIGHT, TIE, BOTH_BAD, RIGHT]


def test_on_a_phone(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"], PHONE, has_touch=True, is_mobile=True) as page:
        page.tap("#begin")
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("document.documentElement.scrollHeight") <= 844  # all at once
        for button in page.locator("#panel button").all():
            box = bounds(button)
            assert box["height"] >= 40
            assert box["width"] >= 44
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
        left, right = (bounds(page.locator(side)) for side in ("#left", "#right"))
        assert left["width"] == right["width"] > 170
        page.tap("#left")
        left, right = (bounds(page.locator(side)) for side in ("#left", "#right"))
        assert left["width"] == right["width"] == 390  # one above the other
        page.tap("#left")
        page.tap("#left")
        for axis in ("relevance", "coherence", "aesthetics", "realism", "overall"):
            page.tap(f"[data-axis={axis}][data-choice=right]")
        page.tap("#next")
        wait_for_count(page, 1)
        assert answers(files) == [[RIGHT] * 5]


def test_all_fits_into_the_window_of_a_laptop(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"], {"width": 1366, "height": 620}) as page:
        page.keyboard.press("Enter")
        ready(page)
        assert page.evaluate("document.documentElement.scrollHeight") == 620
        assert page.locator("#panel").evaluate("panel => panel.scrollHeight <= panel.clientHeight")
        assert bounds(page.locator("#left"))["width"] > 400


def test_a_long_prompt_is_shown_whole_and_a_tap_folds_it(browser, files):
    files.prompts.write_text(files.prompts.read_text().replace(" number ", f" number{' word' * 110} "))
    address = files.start("--port=0", "--raters=1")
    for size in (WIDE, PHONE):
        with opened(browser, address, files.links()["rater-01"], size) as page:
            page.keyboard.press("Enter")
            ready(page)
            assert page.locator("#prompt").evaluate("element => element.scrollHeight <= element.clientHeight")
            assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
            if size == PHONE:
                page.click("#prompt")
                assert bounds(page.locator("#prompt"))["height"] < 100
                assert page.evaluate("document.documentElement.scrollHeight") <= 844


def test_pictures_of_unlike_sizes_are_shown_at_one_size_and_the_next_are_there(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"]) as page:
        page.keyboard.press("Enter")
        ready(page)
        votes = 0
        if page.evaluate("left.naturalWidth === right.naturalWidth"):  # the block's one check: a model against itself
            page.keyboard.press("Shift+ArrowUp")
            page.keyboard.press("Enter")
            wait_for_count(page, votes := 1)
        sizes = [page.evaluate(f"[{side}.naturalWidth, {side}.clientWidth]") for side in ("left", "right")]
        assert sizes[0][0] != sizes[1][0]
        assert sizes[0][1] == sizes[1][1] > 300
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.keyboard.press("Shift+ArrowUp")
        shown = page.evaluate("waiting[1].id")
        page.keyboard.press("Enter")
        wait_for_count(page, votes + 1)
        assert page.get_attribute("#left", "src") == f"/image/{shown}/left"
        assert not [url for url in asked if shown in url]  # they had been loaded before


def test_a_vote_waits_for_a_server_that_is_away(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"], allowed=["ERR_CONNECTION_REFUSED"]) as page:
        page.keyboard.press("Enter")
        ready(page)
        files.stop()
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Enter")
        page.locator("#message", has_text="Nothing is lost").wait_for()
        assert page.locator("[aria-checked=true]").count() == 5
        files.start(f"--port={address.rpartition(':')[2]}", "--raters=1")
        page.keyboard.press("Enter")
        wait_for_count(page, 1)
        assert answers(files) == [[LEFT] * 5]
        assert page.inner_text("#message") == ""


def test_a_second_window_cannot_vote_twice(browser, files):
    address = files.start("--port=0", "--raters=1")
    with opened(browser, address, files.links()["rater-01"], allowed=["409"]) as page:
        page.keyboard.press("Enter")
        ready(page)
        other = page.context.new_page()
        other.goto(address)
        ready(other)
        for window, key in ((page, "Shift+ArrowLeft"), (other, "Shift+ArrowRight")):
            window.keyboard.press(key)
            window.keyboard.press("Enter")
            wait_for_count(window, 1)
        other.wait_for_function("document.getElementById('message').textContent.includes('other answers already')")
        assert answers(files) == [[LEFT] * 5]
