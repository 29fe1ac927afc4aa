"""Encoded images to pixels of one of the buckets' sizes."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from nami_jax.data.images import BrokenImageError, cover, open_image
from nami_jax.data.prepared_format import Bucket
from nami_jax.preparation.errors import RejectedError
from nami_jax.preparation.options import Limits


def limit_pillow(limits: Limits) -> None:
    """Raises Pillow's own limit where that is lower: it guards against what a file hides behind its header."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limits.max_pixels)
    # Pillow refuses above twice its limit, and between the two it warns of what is rejected here anyway.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def fit_image(encoded: bytes, buckets: Sequence[Bucket], limits: Limits) -> tuple[Bucket, np.ndarray]:
    """Decodes an image, puts it on white where it is transparent, and brings it to the bucket nearest to its shape.

    Args:
        encoded: a file in one of `images.FORMATS`.
        buckets: the closed list of (height, width), pixels.
        limits: checked before anything is decoded.

    Returns:
        The bucket, and its (height, width, 3) uint8: resized to cover it (Lanczos) and cropped evenly.

    Raises:
        RejectedError: the image is unreadable, too large or too small.
    """
    try:
        image = open_image(encoded, limits.max_pixels)
    except BrokenImageError as error:
        raise RejectedError(error.reason, error.detail) from error
    bucket = nearest_bucket(image.height, image.width, buckets)
    upscale = _upscale(image.height, image.width, bucket)
    if upscale > limits.max_upscale:
        size = f"{image.width}x{image.height} pixels"
        raise RejectedError("too small", f"{size}, would be enlarged {upscale:.3g} times")
    return bucket, np.asarray(cover(image, *bucket))


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
