"""Image bytes to arrays, and arrays to the stages' sizes."""

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Iterator

import einops
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# No others are opened: some of the many that Pillow knows run other programs or serve no one here.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # of an image; Pillow's own limit: 256 MiB decoded
# What Pillow raises for bytes that are not an image, are truncated or have been overwritten.
_UNREADABLE = (
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


class BrokenImageError(Exception):
    """Bytes that are not an image that can be used.

    Attributes:
        reason: "unreadable image" or "decompression bomb".
        detail: what exactly; the same for the same bytes.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode_image(encoded: bytes, side: int) -> np.ndarray:
    """Decodes an image as `open_image` does and cuts the middle square at the given size.

    Args:
        encoded: a file in one of `FORMATS`.
        side: height and width to return, pixels.

    Returns:
        (side, side, 3) uint8. The shorter side is resized to `side` (Lanczos), the longer one is cropped evenly.

    Raises:
        BrokenImageError: the bytes are not a complete image, or it is too large.
    """
    return np.asarray(cover(open_image(encoded), side, side))


def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image, turns it upright and puts it on white where it is transparent.

    Args:
        encoded: a file in one of `FORMATS`; no other is opened.
        max_pixels: larger images are refused by their header, before anything is decoded.

    Returns:
        An RGB image.

    Raises:
        BrokenImageError: the bytes are not a complete image, or it is too large.
    """
    with _opened(encoded, FORMATS, max_pixels) as image:
        if image.mode in ("I", "F"):
            raise BrokenImageError("unreadable image", f"mode {image.mode}: its white level is unknown")
        return on_white(ImageOps.exif_transpose(image))


def opacity(encoded: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns how opaque each pixel of a PNG is, (H, W) uint8, 255: altogether; raises as `open_image`."""
    with _opened(encoded, ("PNG",), max_pixels) as image:
        return np.asarray(image.convert("RGBA").getchannel("A"))


def png_texts(encoded: bytes) -> dict[str, str]:
    """Returns the texts in a PNG's metadata by name; raises `BrokenImageError` if it is no complete PNG."""
    with _opened(encoded, ("PNG",), MAX_PIXELS) as image:
        image.load()  # texts may stand behind the pixels
        return {str(name): str(text) for name, text in image.info.items() if isinstance(text, str)}


@contextlib.contextmanager
def _opened(encoded: bytes, formats: tuple[str, ...], max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image; what Pillow raises meanwhile, and too large a size, become `BrokenImageError`."""
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            if math.prod(image.size) > max_pixels:
                size = "x".join(map(str, image.size))
                raise BrokenImageError("decompression bomb", f"{size} pixels, at most {max_pixels} pixels are allowed")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the latter if it is an error
        raise BrokenImageError("decompression bomb", str(error)) from error
    except UnidentifiedImageError as error:  # whose text names the object, which no two runs have in one place
        raise BrokenImageError("unreadable image", f"is none of {', '.join(formats)}, or damaged") from error
    except _UNREADABLE as error:
        raise BrokenImageError("unreadable image", f"{type(error).__name__}: {error}") from error


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resizes an image (Lanczos) until it covers height x width, and crops what is beyond evenly."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


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
