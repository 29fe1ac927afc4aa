import numpy as np
from PIL import Image

from nami_jax.sampling.pictures import grid, save_png, stack, to_images


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
        assert np.all(pixels == colour, axis=1).sum() == 2 * 96 * 96


def test_stack_keeps_every_picture_whole():
    sheet = stack([Image.new("RGB", (4, 2), "red"), Image.new("RGB", (6, 3), "blue")])
    assert sheet.size == (6, 5)
    assert sheet.getpixel((3, 1)) == (255, 0, 0)
    assert sheet.getpixel((5, 4)) == (0, 0, 255)


def test_png_carries_what_it_was_made_from(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_png(Image.new("RGB", (2, 2)), path, {"prompt": "żółw 🐢", "seed": 3})
    with Image.open(path) as image:
        assert image.text == {"prompt": "żółw 🐢", "seed": "3"}  # pyright: ignore[reportAttributeAccessIssue]
