"""What a user can set of a preparation."""

from typing import NamedTuple

from nami_jax.config import ConfigError, Dtype, require
from nami_jax.config.settings import Positive, Settings, field, settings

FIELD, REMEDY = "held_out", "Set a number of images such as 20, a share such as 0.01, or none"


class Limits(NamedTuple):
    """The limits that images must respect."""

    max_pixels: int  # width times height, as given in the file's header
    max_upscale: float  # times that an image may be enlarged to fill its bucket


@settings()
class Options(Settings):
    """What a user can set of a preparation, besides the config."""

    unit_size: Positive = field("images per unit of work; an interruption loses unfinished units", default=256)
    held_out: int | float | None = field(
        "images to hold out: a number such as 20, a share such as 0.01 (at least one image), or none; it can be "
        "changed without preparing anew; tensorflow-datasets has splits instead",
        default=0.01,
    )
    max_upscale: float = field("reject images that would be enlarged by more than this factor", default=2.0, ge=1)
    max_pixels: Positive = field(
        "reject images with more pixels, without decoding them", default=89_478_485
    )  # Pillow's own: 256 MiB decoded
    batch_size: Positive = field("images that the autoencoder encodes at once", default=16)
    dtype: Dtype = field("compute type of both networks", default="float32")

    def __post_init__(self) -> None:
        require_held_out(self.held_out)

    @property
    def limits(self) -> Limits:
        """The limits that images must respect."""
        return Limits(self.max_pixels, self.max_upscale)


def parse_held_out(text: str) -> float | None:
    """Reads a flag: "20" is a number of images (an int), "0.01" a share (a float), "none" and "0" nothing.

    Raises:
        ConfigError: it is none of these.
    """
    if text.strip().lower() in ("none", "0"):
        return None
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError as error:
        raise ConfigError(f"{FIELD} = {text!r}: is neither a number nor a share. {REMEDY}.") from error


def require_held_out(held_out: float | None) -> None:
    """Raises `ConfigError` unless it is a number of images (an int, at least 1), a share below 1 (a float) or None."""
    number = isinstance(held_out, int)
    require(
        held_out is None or (held_out >= 1 if number else 0 < held_out < 1),
        field=FIELD,
        value=held_out,
        rule="must be at least 1" if number else "must be above 0 and below 1",
        remedy=REMEDY,
    )
