"""Image bytes to arrays, and arrays to the stages' sizes."""

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
        OSError, SyntaxError, ValueError, EOFError: the bytes are not a complete image.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image = on_white(ImageOps.exif_transpose(image))
        if image.size != (side, side):
            image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
        return np.asarray(image)


def on_white(image: Image.Image) -> Image.Image:
    """Returns the image in RGB, on white where it is transparent; of 16 bits of grey the upper 8 are kept."""
    if image.mode.startswith("I;16"):  # Pillow would cut every level above 255 down to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def to_stage(images: np.ndarray, factor: int) -> np.ndarray:
    """Pools the last stage's images down to an earlier stage's size; pixels are brought to the network's range.

    Args:
        images: (B, H, W, C), pixels as uint8 or latents as floats.
        factor: 2^(K-k) for stage k of K; the mean over its square blocks equals k-fold 2x2 means.

    Returns:
        (B, H / factor, W / factor, C) float32; pixels in [-1, 1], latents on their own scale.
    """
    pooled = einops.reduce(
        images, "b (h fh) (w fw) c -> b h w c", lambda x, axes: x.mean(axes, np.float32), fh=factor, fw=factor
    )
    return pooled / np.float32(127.5) - np.float32(1) if images.dtype == np.uint8 else pooled
