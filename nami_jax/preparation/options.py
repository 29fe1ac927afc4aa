"""What a user can set of a preparation."""

from typing import NamedTuple

from nami_jax.config import Dtype
from nami_jax.config.settings import Positive, Settings, Share, field, settings


class Limits(NamedTuple):
    """The limits that images must respect."""

    max_pixels: int  # width times height, as given in the file's header
    max_upscale: float  # times that an image may be enlarged to fill its bucket


@settings()
class Options(Settings):
    """What a user can set of a preparation, besides the config."""

    unit_size: Positive = field("images per unit of work; an interruption loses unfinished units", default=256)
    eval_share: Share = field("share of images to hold out; tensorflow-datasets has splits instead", default=0.01)
    max_upscale: float = field("reject images that would be enlarged by more than this factor", default=2.0, ge=1)
    max_pixels: Positive = field(
        "reject images with more pixels, without decoding them", default=89_478_485
    )  # Pillow's own: 256 MiB decoded
    batch_size: Positive = field("images that the autoencoder encodes at once", default=16)
    dtype: Dtype = field("compute type of both networks", default="float32")

    @property
    def limits(self) -> Limits:
        """The limits that images must respect."""
        return Limits(self.max_pixels, self.max_upscale)
