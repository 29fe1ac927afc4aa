"""What a visitor may ask for, what of a picture's settings is filled in again, and what is painted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nami_jax.config import ConfigError, SampleConfig
from nami_jax.demo_page.form import Form, VisitLimits, canvas, filled_in, left_out, painted_mask, read_picture
from tests.support.images import bomb
from tests.support.sizes import MODEL

LIMITS = VisitLimits(images=4, side=32, steps=10, letters=20)
GOOD = Form("a red card", "", "", 3, 2, 16, 32, None, None, None, (2, 2, 2), (3.0, 2.0, 1.0))


def test_fields_come_one_after_the_other_and_those_of_each_stage_last():
    assert Form.of([*GOOD[:-2], *GOOD.steps, *GOOD.guidance_scale]) == GOOD._replace(
        steps=list(GOOD.steps), guidance_scale=list(GOOD.guidance_scale)
    )


def test_what_is_empty_is_left_to_the_pipeline():
    asked = GOOD.arguments(LIMITS)
    assert [asked[name] for name in ("preset", "negative_prompt", "image", "mask", "strength")] == [None] * 5
    assert [asked[name] for name in ("seed", "num_images", "height", "width")] == [3, 2, 16, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "red " * 6}, "prompt = 24: this demo allows 20 letters at most"),
        ({"negative_prompt": "r" * 21}, "negative_prompt = 21: this demo allows 20 letters at most"),
        ({"num_images": 5}, "num_images = 5: this demo allows 4 pictures at most"),
        ({"height": 64}, "height = 64: this demo allows 32 pixels at most"),
        ({"width": 10**9}, "width = 1000000000: this demo allows 32 pixels at most"),
        ({"steps": (2, 11, 2)}, "steps of stage 2 = 11: this demo allows 10 steps at most"),
    ],
)
def test_more_than_the_limits_allow_is_refused_in_words(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}. Set less.$"):
        GOOD._replace(**changes).arguments(LIMITS)


def test_a_broken_and_a_huge_picture_are_refused_in_words(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    with pytest.raises(ConfigError, match=r"picture: unreadable image: .* Choose a PNG, JPEG or WebP"):
        GOOD._replace(picture=str(path)).arguments(LIMITS)
    Image.new("1", (10_000, 5_000)).save(path)
    with pytest.raises(ConfigError, match=r"picture: decompression bomb: 10000x5000 pixels"):
        read_picture(path)


def test_a_canvas_is_the_picture_as_it_is_cut_enlarged_by_a_whole_factor():
    picture = Image.fromarray(np.arange(32 * 16 * 3, dtype=np.uint8).reshape(16, 32, 3))
    cut = np.asarray(picture)[:, 8:24]
    np.testing.assert_array_equal(np.asarray(canvas(picture, 16, 16, LIMITS)), cut.repeat(32, 0).repeat(32, 1))
    assert canvas(picture, 600, 400, LIMITS._replace(side=600)).size == (400, 600)
    for height in (0, 33, 10**6, 16.0, "16", None):
        with pytest.raises(ConfigError, match=r"height = .*: must be 1 to 32 pixels"):
            canvas(picture, height, 16, LIMITS)


def test_what_gradio_tells_of_pictures_becomes_their_files():
    sent = GOOD._replace(picture={"path": "a.png"}, painted={"layers": [{"path": "b.png"}], "composite": None})
    assert sent.with_files() == GOOD._replace(picture="a.png", painted=["b.png"])
    assert GOOD.with_files() == GOOD._replace(painted=[])


def layer(path: Path, box: tuple[int, int, int, int] | None = None) -> str:
    empty = Image.new("RGBA", (16, 8))
    if box:
        empty.paste((255, 64, 160, 255), box)
    empty.save(path)
    return str(path)


def test_a_mask_is_white_where_the_layer_is_painted(tmp_path):
    mask = painted_mask([layer(tmp_path / "layer.png", (8, 4, 16, 8))])
    assert mask is not None
    expected = np.zeros((8, 16), np.uint8)
    expected[4:, 8:] = 255
    np.testing.assert_array_equal(np.asarray(mask), expected)


def test_without_paint_there_is_no_mask(tmp_path):
    assert painted_mask([]) is None
    assert painted_mask([layer(tmp_path / "layer.png")]) is None


def test_layers_that_are_several_broken_or_huge_are_refused_in_words(tmp_path, monkeypatch):
    picture, path = layer(tmp_path / "picture.png"), tmp_path / "layer.png"
    asked = GOOD._replace(picture=picture, painted=[str(path)])
    with pytest.raises(ConfigError, match=r"painted = '2 layers': this demo takes one\. Paint on the picture alone"):
        asked._replace(painted=[picture, picture]).arguments(LIMITS)
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    with pytest.raises(ConfigError, match=r"painted: unreadable image: .* paint anew"):
        asked.arguments(LIMITS)
    path.write_bytes(bomb(8_000, 6_000))
    with pytest.raises(ConfigError, match=r"painted: decompression bomb: 8000x6000 pixels, at most 40000000"):
        asked.arguments(LIMITS)


def test_a_picture_s_settings_are_filled_in():
    about = {
        "prompt": "7", "negative_prompt": "", "preset": "fast", "seed": 3, "num_images": 2, "height": 16, "width": 32,
        "strength": None, "steps": (1, 2, 3), "guidance_scale": 2.5, "solver": "euler", "Software": "another",
    }  # fmt: skip
    filled = filled_in(about, MODEL)
    assert filled.pop("steps") == (1, 2, 3)
    assert filled.pop("guidance_scale") == (2.5, 2.5, 2.5)
    assert filled == {name: about[name] for name in filled}
    assert filled.keys() == {"prompt", "negative_prompt", "preset", "seed", "num_images", "height", "width"}


def test_what_is_missing_is_left_as_it_is_and_what_is_odd_is_refused():
    assert filled_in({"prompt": "red", "seed": "1; 2", "preset": []}, MODEL) == {"prompt": "red", "preset": ""}
    with pytest.raises(ConfigError, match=r"were drawn by a model of 1 stages; this one has 3"):
        filled_in({"prompt": "red", "steps": (10,)}, MODEL)
    with pytest.raises(ConfigError, match=r"sample\.steps = 'ten'"):
        filled_in({"prompt": "red", "steps": "ten"}, MODEL)


def test_what_the_form_cannot_repeat_is_named():
    settings = SampleConfig((2, 2, 2), 3.0)
    same = {"steps": (2, 2, 2), "guidance_scale": 3.0, "checkpoint": "mine", "loras": {}, "image": None}
    assert left_out(same, settings, "mine") == []
    other = same | {"solver": "heun", "checkpoint": "yours", "loras": {"a": 1.0}, "image": "x.png", "edit": "blue"}
    assert left_out(other, settings, "mine") == [
        "solver = heun, not euler",
        "drawn by yours",
        "with adapters {'a': 1.0}",
        "begun from a picture, which is not stored: choose it again",
        "edited from 'blue'",
    ]
