"""What a drawn PNG says of how it was drawn."""

import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.sampling.picture_settings import MOST_LETTERS, about_pictures, read_settings
from nami_jax.sampling.pictures import save_png
from tests.support.pipelines import small_pipeline

PICTURE = Image.new("RGB", (4, 4))
ASKED = {"preset": None, "preset_prompt": True, "seed": 3, "strength": None, "height": 16}


def test_what_is_written_is_read_again(tmp_path):
    pipe = small_pipeline()
    about = {"prompt": "3.5", "negative_prompt": "None"} | about_pictures(pipe, pipe.settings(steps=(2, 3, 4)), ASKED)
    save_png(PICTURE, tmp_path / "picture.png", about)
    read = read_settings(tmp_path / "picture.png")
    assert read == about
    assert (read["prompt"], read["negative_prompt"], read["steps"], read["strength"]) == (
        "3.5",
        "None",
        (2, 3, 4),
        None,
    )
    assert (read["checkpoint"], read["solver"], read["loras"]) == ("a small network", "euler", {})


def test_the_texts_that_a_preset_adds_are_written():
    pipe = small_pipeline()
    settings = pipe.settings("released")
    assert about_pictures(pipe, settings, ASKED | {"preset": "released"})["prompt_suffix"].startswith(".extremely")
    without = ASKED | {"preset": "released", "preset_prompt": False}
    assert about_pictures(pipe, settings, without)["prompt_suffix"] == ""


@pytest.mark.parametrize("value", ["__import__('os')", "(" * 300, "9" * (MOST_LETTERS + 1), "euler", "a\0b"])
def test_what_is_no_plain_value_stays_text(tmp_path, value):
    info = {"prompt": "red", "steps": value}
    save_png(PICTURE, tmp_path / "picture.png", info)
    assert read_settings(tmp_path / "picture.png") == info


def test_a_picture_that_says_nothing_and_a_file_that_is_none_are_refused(tmp_path):
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    with pytest.raises(ConfigError, match="says nothing of how it was drawn"):
        read_settings(path)
    PICTURE.save(path, "JPEG")
    with pytest.raises(ConfigError, match="unreadable image: is none of PNG, or damaged"):
        read_settings(path)
    save_png(PICTURE, path, {"prompt": "red"})
    path.write_bytes(path.read_bytes()[:-26])  # in the midst of its pixels
    with pytest.raises(ConfigError, match="unreadable image"):
        read_settings(path)
