import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nami_jax.data.images import BrokenImageError, decode_image, opacity, to_stage
from tests.support.images import bomb


def encode(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    options: dict[str, Any] = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
    np.testing.assert_array_equal(decode_image(encode(image, **options), 4), 255)


def test_images_of_the_right_size_keep_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels)), 6), pixels)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_upper_8(fmt):
    levels = np.arange(255, 65536, 4096).astype(np.uint16).reshape(4, 4)
    decoded = decode_image(encode(Image.fromarray(levels), fmt), 4)
    np.testing.assert_array_equal(decoded, np.repeat((levels // 256)[..., None], 3, axis=2))


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_the_middle_square_is_cut_out(shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[tuple(slice((n - 8) // 2, (n + 8) // 2) for n in shape)] = 200
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels)), 8), 200)


def test_the_short_side_is_resized_with_a_filter():
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    decoded = decode_image(encode(Image.fromarray(board.astype(np.uint8))), 8)
    assert decoded.shape == (8, 8, 3)
    assert np.ptp(decoded.astype(int)) <= 2  # a checkerboard averages to grey; picking pixels would keep black or white


def test_the_camera_s_orientation_is_obeyed():
    image = Image.new("RGB", (4, 4), "black")
    image.paste("white", (0, 0, 2, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by half a turn
    decoded = decode_image(encode(image, exif=exif), 4)
    assert decoded[:, 2:].min() == 255 > decoded[:, :2].max()


@pytest.mark.parametrize("encoded", [b"", b"not an image", encode(Image.new("RGB", (32, 32)), "JPEG")[:-40]])
def test_bytes_that_are_no_whole_image_raise(encoded):
    with pytest.raises(BrokenImageError, match="unreadable image"):
        decode_image(encoded, 8)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PDF"])
def test_formats_that_run_programs_or_that_no_one_needs_are_not_opened(kind):
    with pytest.raises(BrokenImageError, match="is none of BMP"):
        decode_image(encode(Image.new("RGB", (20, 20), "red"), kind), 8)


def test_a_header_that_promises_billions_of_pixels_is_refused():
    for width, height in ((50_000, 50_000), (12_000, 9_000)):  # by Pillow, above twice the limit, and by the limit
        with pytest.raises(BrokenImageError, match=r"decompression bomb: .* pixels"):
            decode_image(bomb(width, height), 8)


def test_opacity_is_read_of_pngs_of_a_size():
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    image.putpixel((2, 0), (255, 0, 0, 128))
    np.testing.assert_array_equal(opacity(encode(image)), [[0, 0, 128], [0, 0, 0]])
    np.testing.assert_array_equal(opacity(encode(image.convert("RGB"))), np.full((2, 3), 255))
    with pytest.raises(BrokenImageError, match=r"decompression bomb: 3x2 pixels, at most 5"):
        opacity(encode(image), 5)
    with pytest.raises(BrokenImageError, match="is none of PNG"):
        opacity(encode(image, "WEBP"))


def test_stage_images_are_repeated_2x2_means_in_the_networks_range():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    half = images.astype(np.float32).reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
    quarter = half.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    staged = to_stage(images, 4)
    assert staged.dtype == np.float32
    np.testing.assert_allclose(staged, quarter / 127.5 - 1, atol=1e-6)


def test_black_is_minus_one_and_white_one():
    extremes = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    np.testing.assert_array_equal(to_stage(extremes, 2)[:, 0, 0, 0], [-1, 1])
