"""Image bytes to arrays, and arrays to the stages' sizes. Comes before `source` and `loader`, which call it."""

import io

import einops
import numpy as np
from PIL import Image, ImageOps


def decode_image(encoded: bytes, side: int) -> np.ndarray:
    """Decodes an image, puts it on white where it is transparent, and cuts the middle square at the given size.

    Args:
        encoded: a file that Pillow reads (PNG, JPEG, WebP, ...).
        side: height and width to return, pixels.

    Returns:
        (side, side, 3) uint8. The shorter side is resized to `side` (Lanczos), the longer one is cropped evenly.

    Raises:
        OSError, SyntaxError, ValueError, EOFError: the bytes are not a whole image.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            ground = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(ground, image.convert("RGBA"))
        image = image.convert("RGB")
        if image.size != (side, side):
            image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
        return np.asarray(image)


def to_stage(images: np.ndarray, factor: int) -> np.ndarray:
    """Pools whole images down to a stage's size and to the network's range.

    Args:
        images: (B, H, W, C) uint8.
        factor: 2^(K-k) for stage k of K; the mean over its square blocks equals k-fold 2x2 means.

    Returns:
        (B, H / factor, W / factor, C) float32 in [-1, 1].
    """
    pooled = einops.reduce(
        images, "b (h fh) (w fw) c -> b h w c", lambda x, axes: x.mean(axes, np.float32), fh=factor, fw=factor
    )
    return pooled / np.float32(127.5) - np.float32(1)
