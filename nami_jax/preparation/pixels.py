"""Encoded images to pixels of one of the buckets' sizes."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from nami_jax.data.images import on_white
from nami_jax.data.latents import Bucket
from nami_jax.preparation.errors import RejectedError
from nami_jax.preparation.options import Limits

# No others are opened: some of the many that Pillow knows run other programs or serve no one here.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# What Pillow raises for bytes that are not an image, are truncated or have been overwritten.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


def limit_pillow(limits: Limits) -> None:
    """Raises Pillow's own limit where that is lower: it guards against what a file hides behind its header."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limits.max_pixels)
    # Pillow refuses above twice its limit, and between the two it warns of what is rejected here anyway.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def fit_image(encoded: bytes, buckets: Sequence[Bucket], limits: Limits) -> tuple[Bucket, np.ndarray]:
    """Decodes an image, puts it on white where it is transparent, and brings it to the bucket nearest to its shape.

    Args:
        encoded: a file in one of `FORMATS`.
        buckets: the closed list of (height, width), pixels.
        limits: checked before anything is decoded.

    Returns:
        The bucket, and its (height, width, 3) uint8: resized to cover it (Lanczos) and cropped evenly.

    Raises:
        RejectedError: the image is unreadable, too large or too small.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if math.prod(image.size) > limits.max_pixels:
                raise RejectedError("decompression bomb", _sizes(image.size, f"at most {limits.max_pixels} pixels"))
            if image.mode in ("I", "F"):
                raise RejectedError("unreadable image", f"mode {image.mode}: its white level is unknown")
            image = ImageOps.exif_transpose(image)
            bucket = nearest_bucket(image.height, image.width, buckets)
            upscale = _upscale(image.height, image.width, bucket)
            if upscale > limits.max_upscale:
                raise RejectedError("too small", _sizes(image.size, f"would be enlarged {upscale:.3g} times"))
            pixels = ImageOps.fit(on_white(image), (bucket[1], bucket[0]), Image.Resampling.LANCZOS)
            return bucket, np.asarray(pixels)
    except Image.DecompressionBombError as error:
        raise RejectedError("decompression bomb", str(error)) from error
    except UNREADABLE as error:
        raise RejectedError("unreadable image", f"{type(error).__name__}: {error}") from error


def _sizes(size: tuple[int, int], rule: str) -> str:
    return f"{size[0]}x{size[1]} pixels, {rule}"


def nearest_bucket(height: int, width: int, buckets: Sequence[Bucket]) -> Bucket:
    """Returns the bucket of the nearest shape; of those alike, the largest that needs no enlarging, else the least.

    Shapes are compared by the logarithm of height / width: 2:1 is as far from square as 1:2.
    """

    def distance(bucket: Bucket) -> tuple[float, float, int]:
        shape = abs(math.log(height / width) - math.log(bucket[0] / bucket[1]))
        return round(shape, 6), max(_upscale(height, width, bucket), 1.0), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def _upscale(height: int, width: int, bucket: Bucket) -> float:
    """Returns how many times an image is enlarged until it covers a bucket; below 1 it is made smaller."""
    return max(bucket[0] / height, bucket[1] / width)
