"""Drawing for a visitor: stages as they are done, PNGs that hold their settings, and what ends it."""

import threading

import numpy as np
import pytest
from PIL import Image

from nami_jax import NamiPipeline
from nami_jax.config import ConfigError
from nami_jax.demo_page.drawer import Drawer, GivenUpError, told_by
from nami_jax.demo_page.form import GIVEN, Form, VisitLimits
from nami_jax.sampling.picture_settings import read_settings
from tests.support.pipelines import small_model

FORM = Form("a red card", "blue", "", 3, 2, 16, 16, None, None, None, (2, 1, 2), (3.0, 2.0, 1.0))


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return NamiPipeline.from_pretrained(small_model(tmp_path_factory.mktemp("demo") / "model"))


@pytest.fixture
def drawer(pipe, tmp_path):
    return Drawer(pipe, VisitLimits(4, 32, 10, 100), tmp_path)


def test_stages_come_one_after_the_other_and_are_those_of_the_pipeline(drawer):
    drawn = list(drawer.draw(FORM))
    assert [stage for stage, _ in drawn] == [1, 2, 3]
    stages = drawer.pipe(
        "a red card", negative_prompt="blue", seed=3, num_images=2, height=16, width=16, steps=(2, 1, 2),
        guidance_scale=(3.0, 2.0, 1.0), return_stages=True,
    )  # fmt: skip
    for (_, files), pictures in zip(drawn, stages, strict=True):
        for file, picture in zip(files, pictures, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(picture))


def test_a_png_holds_what_it_was_drawn_with(drawer):
    *_, (_, files) = drawer.draw(FORM)
    about = read_settings(files[1])
    asked = {name: value for name, value in FORM._asdict().items() if name not in ("picture", "painted", "preset")}
    assert {name: about[name] for name in asked} == asked
    rest = {"number": 1, "preset": None, "image": None, "checkpoint": drawer.pipe.source}
    assert {name: about[name] for name in rest} == rest


def test_from_a_picture_what_is_not_painted_stays(drawer, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "source.png")
    layer = Image.new("RGBA", (512, 512))
    layer.paste((255, 64, 160, 255), (0, 0, 512, 256))  # the upper half, on a canvas 32 times as large
    layer.save(tmp_path / "layer.png")
    form = FORM._replace(picture=str(tmp_path / "source.png"), painted=[str(tmp_path / "layer.png")])
    *_, (_, files) = drawer.draw(form)
    drawn = np.asarray(Image.open(files[0]))
    np.testing.assert_array_equal(drawn[8:], levels[8:])
    assert np.abs(drawn[:8].astype(int) - levels[:8]).mean() > 10
    assert (read_settings(files[0])["image"], read_settings(files[0])["mask"]) == (GIVEN, GIVEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  "}, "a prompt is empty"),
        ({"prompt": None}, "must be a text"),
        ({"num_images": 9}, "this demo allows 4 pictures at most"),
        ({"height": 18}, "3 stages of 2x2 patches need a multiple of 8"),
        ({"seed": None}, "seed = None: must be an integer"),
        ({"steps": (1, 1)}, "there are steps for 2 stages"),
        ({"preset": "fastt"}, "no such preset. Did you mean 'fast'"),
    ],
)
def test_what_cannot_be_drawn_is_said(drawer, changes, message):
    with pytest.raises(ConfigError, match=message):
        list(drawer.draw(FORM._replace(**changes)))


def test_a_closed_drawer_ends_after_the_stage(drawer):
    drawing = drawer.draw(FORM._replace(height=32))  # a size of its own: the next stage has to be compiled first
    next(drawing)
    drawer.close()
    with pytest.raises(GivenUpError):
        list(drawing)


def test_news_come_while_the_work_goes_on_and_its_error_at_the_end():
    going_on = threading.Event()

    def work(tell):
        tell(1)
        assert going_on.wait(60)
        tell(2)
        raise KeyError("three")

    news = told_by(work, threading.Lock())
    assert next(news) == 1
    going_on.set()
    assert next(news) == 2
    with pytest.raises(KeyError, match="three"):
        next(news)


def test_work_that_nobody_waits_for_is_given_up_and_the_next_begins_when_it_has_ended():
    going_on, ended, turn = threading.Event(), threading.Event(), threading.Lock()

    def work(tell):
        tell(1)
        assert going_on.wait(60)
        try:
            tell(2)
        except GivenUpError:
            ended.set()

    news = told_by(work, turn)
    assert next(news) == 1
    news.close()
    threading.Timer(0.2, going_on.set).start()  # the end of its stage, when the next one has been asked for
    assert list(told_by(lambda tell: tell(ended.is_set()), turn)) == [True]
