import io

import numpy as np
import pytest
from PIL import Image

from nami_jax.data.images import FORMATS
from nami_jax.preparation.errors import RejectedError
from nami_jax.preparation.pixels import Limits, fit_image, limit_pillow, nearest_bucket
from tests.preparation.conftest import SQUARE, WIDE, png
from tests.support.images import bomb

LIMITS = Limits(max_pixels=1_000_000, max_upscale=2.0)
BUCKETS = (SQUARE, WIDE)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rejected(content: bytes, limits: Limits = LIMITS) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        fit_image(content, BUCKETS, limits)
    return caught.value


@pytest.mark.parametrize(
    ("height", "width", "bucket"),
    [(30, 30, SQUARE), (20, 24, SQUARE), (20, 40, WIDE), (20, 29, WIDE), (20, 28, SQUARE), (99, 20, SQUARE)],
)
def test_the_bucket_of_the_nearest_shape_is_taken(height, width, bucket):
    # 1 : sqrt(2) is as far from 1:1 as from 1:2.
    assert nearest_bucket(height, width, BUCKETS) == bucket


def test_of_buckets_of_one_shape_the_largest_that_the_image_fills_is_taken():
    sizes = ((64, 64), (16, 16), (32, 32))
    assert nearest_bucket(40, 40, sizes) == (32, 32)
    assert nearest_bucket(200, 200, sizes) == (64, 64)
    assert nearest_bucket(10, 10, sizes) == (16, 16)


def test_an_image_covers_its_bucket_and_is_cropped_evenly():
    image = Image.new("RGB", (60, 20), "red")  # 3:1: the middle 40 of 60 columns cover 2:1
    image.paste("blue", (10, 0, 50, 20))
    bucket, pixels = fit_image(encoded(image), BUCKETS, LIMITS)
    assert bucket == WIDE
    assert pixels.shape == (*WIDE, 3)
    assert pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - (0, 0, 255)).max() <= 8  # Lanczos looks a little beyond the cut


def test_an_image_of_the_bucket_size_keeps_its_pixels():
    image = Image.effect_noise((32, 16), 80).convert("RGB")
    np.testing.assert_array_equal(fit_image(encoded(image), BUCKETS, LIMITS)[1], np.asarray(image))


def test_orientation_in_exif_counts_for_the_bucket():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image = Image.new("RGB", (20, 40), "red")
    image.paste("blue", (0, 0, 20, 20))
    bucket, pixels = fit_image(encoded(image, exif=exif), BUCKETS, LIMITS)
    assert bucket == WIDE
    assert tuple(pixels[8, 2]) == (255, 0, 0)
    assert tuple(pixels[8, 29]) == (0, 0, 255)


def test_transparent_images_are_put_on_white():
    _, pixels = fit_image(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0))), BUCKETS, LIMITS)
    assert (pixels == 255).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_common_formats_are_read(kind):
    _, pixels = fit_image(encoded(Image.new("RGB", (20, 20), "red"), kind), BUCKETS, LIMITS)
    assert abs(pixels.astype(int) - (255, 0, 0)).max() <= 4  # JPEG and WebP lose a little


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PDF"])
def test_formats_that_no_one_needs_are_not_opened(kind):
    assert rejected(encoded(Image.new("RGB", (20, 20), "red"), kind)).reason == "unreadable image"


@pytest.mark.parametrize("content", [b"", b"no image", png()[:60], png()[:40] + b"x" * 40, b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_whole_image_is_rejected(content):
    error = rejected(content)
    assert error.reason == "unreadable image"
    assert "0x" not in error.detail  # an address differs from run to run


@pytest.mark.parametrize("level", [np.int32(70_000), np.float32(0.5)])
def test_levels_of_unknown_range_are_rejected(level):
    assert rejected(encoded(Image.fromarray(np.full((20, 20), level)), "TIFF")).reason == "unreadable image"


def test_grey_of_16_bits_is_read():
    _, pixels = fit_image(encoded(Image.fromarray(np.full((20, 20), 0x80FF, np.uint16))), BUCKETS, LIMITS)
    assert (pixels == 0x80).all()


def test_a_bomb_is_rejected_by_its_header():
    limit_pillow(LIMITS)
    for width, height in ((50_000, 50_000), (1200, 1000)):  # by Pillow, above twice the limit, and by the limit itself
        error = rejected(bomb(width, height))
        assert error.reason == "decompression bomb"
        assert "pixels" in error.detail


def test_images_to_be_enlarged_too_much_are_rejected():
    assert fit_image(png(8, 8), BUCKETS, LIMITS)[0] == SQUARE
    error = rejected(png(8, 7))
    assert error.reason == "too small"
    assert error.detail == "8x7 pixels, would be enlarged 2.29 times"
