"""The demo's page in a headless Chromium, against its own server, which draws with a tiny random model."""

import contextlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from nami_jax.sampling.picture_settings import read_settings
from tests.support.browser import MARKS, PHONE, WIDE, bounds, watched_page
from tests.support.demo import Demo

pytestmark = MARKS
PATIENCE = 600_000  # milliseconds: the first drawing of a kind compiles
SIDE = 16
LONG = 5000  # steps of a stage that is not over before two other visitors have pressed a button
# Notes in which order the galleries of stages get their pictures.
ORDER = """() => {
  window.order = [];
  new MutationObserver(() => {
    for (const stage of [1, 2, 3])
      if (!order.includes(stage) && document.querySelector(`#stage_${stage} .gallery-item img`)) order.push(stage);
  }).observe(document.body, {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


@pytest.fixture(scope="module")
def address(demo):
    return demo.start("--port=0", "--most_images=4")


@contextlib.contextmanager
def opened(browser, address, size=WIDE, allowed=(), **options):
    """Opens the page; at the end nothing may have failed on it, and nothing been asked of another server."""
    allowed = ["Method not implemented", *allowed]  # what Gradio's own component for pictures says
    with watched_page(browser, address, size, allowed, **options) as (page, _):
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector("#draw")
        yield page


def field(page, name):
    return page.locator(f"#{name} textarea, #{name} input[type=number]").first


def fill(page, **values):
    for name, value in values.items():
        field(page, name).fill(str(value))
        field(page, name).press("Tab")


def filled(page, *names):
    return [field(page, name).input_value() for name in names]


def unfold(page, name):
    page.click(f"#{name} > button")


def wait_for_pictures(page, name, count):
    page.wait_for_function(
        "([name, count]) => document.querySelectorAll(`#${name} .gallery-item img`).length === count", arg=[name, count]
    )


def pictures(page, name):
    """Returns a gallery's pictures as levels."""
    urls = [image.get_attribute("src") for image in page.locator(f"#{name} .gallery-item img").all()]
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body()))) for url in urls]


def draw(page, stages=(1, 2, 3), count=1):
    """Draws, and waits for the pictures of the last stage, which go to the gallery with those before."""
    before = page.locator("#gallery .gallery-item").count()
    page.click("#draw")
    wait_for_pictures(page, "gallery", before + count)
    return {stage: pictures(page, f"stage_{stage}") for stage in stages}


def choose_file(page, button, path):
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(path)


def said(page, text):
    page.locator("[data-testid=toast-text]").get_by_text(text).first.wait_for()


def download(page, path):
    page.wait_for_selector("#download:enabled")
    with page.expect_download() as sent:
        page.click("#download")
    sent.value.save_as(path)
    return path


def test_stages_appear_one_after_the_other_and_a_png_s_settings_come_back(browser, address, tmp_path):
    wanted = {
        "prompt": "a red card", "negative": "blue", "seed": 7, "num_images": 2, "height": 2 * SIDE, "steps_2": 3,
        "guidance_1": 2.5,
    }  # fmt: skip
    with opened(browser, address) as page:
        page.evaluate(ORDER)
        unfold(page, "by_stage")
        fill(page, **wanted)
        stages = draw(page, count=2)
        assert page.evaluate("order") == [1, 2, 3]
        shapes = {stage: [picture.shape for picture in drawn] for stage, drawn in stages.items()}
        assert shapes == {1: [(8, 4, 3)] * 2, 2: [(16, 8, 3)] * 2, 3: [(32, 16, 3)] * 2}
        page.locator("#gallery .gallery-item button").nth(1).click()
        path = download(page, tmp_path / "picture.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), stages[3][1])
        about = read_settings(path)
        asked = ("prompt", "negative_prompt", "seed", "num_images", "height", "width", "steps", "guidance_scale")
        assert [about[name] for name in asked] == ["a red card", "blue", 7, 2, 32, 16, (2, 3, 2), (2.5, 3.0, 3.0)]
        assert about["number"] == 1

        before = filled(page, *wanted)
    with opened(browser, address) as page:  # another visit
        choose_file(page, "#upload", path)
        page.click("#use:enabled")
        page.wait_for_function("document.querySelector('#prompt textarea').value === 'a red card'")
        unfold(page, "by_stage")
        assert filled(page, *wanted) == before
        again = draw(page, count=2)
        np.testing.assert_array_equal(again[3][1], stages[3][1])


def test_a_picture_is_redrawn_and_what_is_not_painted_stays(browser, address, tmp_path):
    source = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(source).save(tmp_path / "source.png")
    size, of_gradio = {"width": 1280, "height": 1600}, ["/assets/", "GL Driver"]  # of its editor
    with opened(browser, address, size, allowed=of_gradio) as page:
        unfold(page, "begin")
        page.set_input_files("#picture input[type=file]", tmp_path / "source.png")
        canvas = page.locator("#painted canvas").first
        canvas.wait_for()
        fill(page, prompt="a red card", strength=0.5)
        near = draw(page)[3][0].astype(int) - source
        fill(page, strength=1)
        far = draw(page)[3][0].astype(int) - source
        assert 1 < np.abs(near).mean() < np.abs(far).mean()

        canvas.scroll_into_view_if_needed()
        box = bounds(canvas)
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.2, steps=10)
        page.mouse.up()
        changed = np.abs(draw(page)[3][0].astype(int) - source).sum(-1) > 0
        assert changed[:8].sum() >= 6
        assert not changed[8:].any()
        page.locator("#gallery .gallery-item button").first.click()
        about = read_settings(download(page, tmp_path / "filled.png"))
        assert (about["strength"], about["mask"]) == (1.0, "a picture that is not stored here")


def test_what_cannot_be_drawn_is_said_in_words_and_the_page_goes_on(browser, address, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    with opened(browser, address, allowed=["broken"]) as page:
        page.click("#draw")
        said(page, re.compile("a prompt is empty"))
        field(page, "prompt").evaluate("box => box.removeAttribute('maxlength')")
        fill(page, prompt="red " * 1000)
        page.click("#draw")
        said(page, re.compile("this demo allows 1000 letters at most"))
        choose_file(page, "#upload", broken)
        said(page, re.compile("unreadable image"))
        fill(page, prompt="red")
        unfold(page, "begin")
        page.set_input_files("#picture input[type=file]", broken)
        page.locator("[data-testid=toast-text]").get_by_text("Choose a PNG, JPEG or WebP").first.wait_for()
        page.click("#picture [aria-label='Remove Image']")
        draw(page)


def test_two_visitors_draw_at_once_and_who_stops_can_go_on(browser, address):
    with opened(browser, address) as one, opened(browser, address) as other:
        for page, seed in ((one, 1), (other, 2)):
            fill(page, prompt="red", seed=seed)
            page.click("#draw")
        for page in (one, other):
            wait_for_pictures(page, "gallery", 1)
        assert not np.array_equal(pictures(one, "gallery")[0], pictures(other, "gallery")[0])
        fill(one, num_images=4)
        one.click("#draw")
        wait_for_pictures(one, "stage_1", 4)
        one.click("#stop")
        fill(one, num_images=1)
        one.click("#draw")
        wait_for_pictures(one, "stage_3", 1)


def test_a_visitor_too_many_is_told_so_and_can_draw_later(browser, tmp_path):
    demo = Demo(tmp_path)
    try:
        address = demo.start("--port=0", "--most_waiting=1", f"--most_steps={LONG}")
        with (
            opened(browser, address) as first,
            opened(browser, address) as second,
            opened(browser, address, allowed=["status of 503"]) as third,
        ):
            for page in (first, second, third):
                page.set_default_timeout(120_000)
                fill(page, prompt="red")
            unfold(first, "by_stage")
            fill(first, steps_2=LONG)
            first.click("#draw")
            wait_for_pictures(first, "stage_1", 1)  # no longer queued, and the next stage takes long
            second.click("#draw")
            second.locator("#stage_3").get_by_text("queue: 1/1").wait_for()
            third.click("#draw")
            said(third, "This application is currently busy. Please try again.")
            wait_for_pictures(first, "stage_2", 1)
            for page in (first, second):
                wait_for_pictures(page, "gallery", 1)
            draw(third)
    finally:
        demo.stop()


def test_on_a_phone_everything_is_as_wide_as_the_screen(browser, address):
    with opened(browser, address, PHONE, has_touch=True, is_mobile=True) as page:
        unfold(page, "by_stage")
        unfold(page, "begin")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
