import numpy as np
import pytest
from PIL import Image

from nami_jax.sampling.pictures import CELL, GAP, grid, save_beside, save_png, stack, to_images


def test_pixels_become_levels_and_excess_is_cut():
    pixels = np.array([-1.0, 1.0, 0.0, -3.0, 3.0, 1 / 255]).reshape(1, 1, 2, 3)
    (image,) = to_images(pixels)
    np.testing.assert_array_equal(np.asarray(image).ravel(), [0, 255, 128, 0, 255, 128])


def test_grid_shows_each_image_enlarged_in_its_cell():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (32, 32), colour) for colour in colours]
    sheet = grid(["red", "green", "blue"], [images, images[::-1]], title="colours", columns=2)
    pixels = np.asarray(sheet).reshape(-1, 3)
    for colour in colours:
        assert np.all(pixels == colour, axis=1).sum() == 2 * CELL * CELL


def test_stack_keeps_every_picture_whole():
    sheet = stack([Image.new("RGB", (4, 2), "red"), Image.new("RGB", (6, 3), "blue")])
    assert sheet.size == (6, 5)
    assert sheet.getpixel((3, 1)) == (255, 0, 0)
    assert sheet.getpixel((5, 4)) == (0, 0, 255)


LONG = "a very long description of a red card that says, word by word, all there is to say of it, " * 4


def ink(sheet, box):
    """Returns how many dark pixels a part of a sheet has."""
    return int((np.asarray(sheet.crop(box).convert("L")) < 100).sum())


def test_no_caption_and_no_title_is_cut_however_long():
    image = Image.new("RGB", (32, 32), "white")
    # In a black font, every letter more is more ink: what is written twice has twice as much.
    once, twice = (grid([LONG * n], [[image]], title="") for n in (1, 2))
    assert ink(twice, (0, 0, *twice.size)) == pytest.approx(2 * ink(once, (0, 0, *once.size)), rel=0.05)
    once, twice = (grid(["x"], [[image]], title=LONG * n) for n in (1, 2))
    assert ink(twice, (0, 0, *twice.size)) == pytest.approx(2 * ink(once, (0, 0, *once.size)), rel=0.05)
    assert ink(twice, (twice.width - 4, 0, *twice.size)) == 0  # nothing runs into the margin


def test_a_word_wider_than_its_picture_is_broken_and_pictures_stay_apart():
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    sheet = grid(["W" * 60, LONG], [images])
    assert ink(sheet, (GAP + CELL, GAP + CELL + 2, GAP + CELL + GAP, sheet.height)) == 0
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert np.all(pixels == (255, 0, 0), axis=1).sum() == CELL * CELL


def test_a_picture_replaces_no_other_and_is_not_kept_twice(tmp_path):
    path = tmp_path / "new" / "a.png"
    red, blue = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    assert save_beside(red, path, {"seed": 1}) == path
    before = path.read_bytes()
    assert save_beside(blue, path, {"seed": 1}) == tmp_path / "new" / "a-2.png"
    assert save_beside(red, path, {"seed": 2}) == tmp_path / "new" / "a-3.png"  # of other settings
    assert save_beside(blue, path, {"seed": 1}) == tmp_path / "new" / "a-2.png"
    assert save_beside(red, path, {"seed": 1}) == path
    assert path.read_bytes() == before
    assert sorted(found.name for found in path.parent.iterdir()) == ["a-2.png", "a-3.png", "a.png"]


def test_png_carries_what_it_was_made_from(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_png(Image.new("RGB", (2, 2)), path, {"prompt": "żółw 🐢", "seed": 3})
    with Image.open(path) as image:
        assert image.text == {"prompt": "żółw 🐢", "seed": "3"}  # pyright: ignore[reportAttributeAccessIssue]
