"""What a preparation is: the settings that every worker is sent, and the networks that each loads once."""

import dataclasses
import functools
import threading
from typing import NamedTuple

import jax.numpy as jnp

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import AutoencoderConfig, Config, ModelConfig, TextConfig, require
from nami_jax.data.latents import Prepared
from nami_jax.preparation.pixels import Limits
from nami_jax.preparation.sources import RecordSource, UnitList
from nami_jax.text.caption_table import TextEncoder, encoder_id, load_text_encoder


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user can set of a preparation, besides the config."""

    unit_size: int = 256  # records between which a killed run loses nothing
    eval_share: float = 0.01  # of a folder's or tars' records to hold out
    max_upscale: float = 2.0
    max_pixels: int = 89_478_485  # Pillow's own limit: 256 MiB decoded
    batch_size: int = 16  # images of one shape that the autoencoder is given at once
    dtype: str = "float32"  # in which autoencoder and text encoder compute

    def __post_init__(self) -> None:
        for name in ("unit_size", "max_pixels", "batch_size"):
            value = getattr(self, name)
            require(
                value >= 1,
                field=name,
                value=value,
                rule="must be at least 1",
                remedy=f"Set e.g. {getattr(type(self), name)}",
            )
        require(
            0.0 <= self.eval_share < 1.0,
            field="eval_share",
            value=self.eval_share,
            rule="must be in [0, 1)",
            remedy="Set e.g. 0.01",
        )
        require(
            self.max_upscale >= 1.0,
            field="max_upscale",
            value=self.max_upscale,
            rule="must be at least 1",
            remedy="Set e.g. 2",
        )
        require(
            self.dtype in ("float32", "bfloat16"),
            field="dtype",
            value=self.dtype,
            rule="is not a compute type",
            remedy="Set 'float32' or 'bfloat16'",
        )

    @property
    def limits(self) -> Limits:
        """What images must keep to."""
        return Limits(self.max_pixels, self.max_upscale)


@dataclasses.dataclass(frozen=True)
class Job:
    """A preparation, as it is sent to workers."""

    cfg: Config
    source: RecordSource
    out: str
    options: Options

    def networks(self) -> "Networks":
        """Returns autoencoder and text encoder, loaded once in each process.

        Raises:
            ConfigError: the config has no autoencoder, or one of other sizes, or the text encoder's files are missing.
        """
        with _LOADING:  # threads of one worker would all load them
            model = dataclasses.replace(self.cfg.model, dtype=self.options.dtype)
            return _load(self.cfg.autoencoder, model, self.cfg.text)

    def settings(self, plan: UnitList) -> Prepared:
        """Returns everything that the prepared data depend on."""
        networks = self.networks()
        return Prepared(
            source=self.source.kind,
            source_digest=plan.digest,
            records=sum(unit.count for unit in plan.units),
            unit_size=self.options.unit_size,
            units=len(plan.units),
            eval_share=self.source.eval_share,
            buckets=self.cfg.data.bucket_sizes,
            max_upscale=self.options.max_upscale,
            max_pixels=self.options.max_pixels,
            autoencoder=networks.autoencoder.fingerprint,
            downscale=networks.autoencoder.downscale,
            channels=networks.autoencoder.channels,
            text_encoder=encoder_id(self.cfg.text),
            max_length=networks.text.max_length,
            text_dim=networks.text.embed_dim,
            pooled_dim=networks.text.pooled_dim,
            dtype=self.options.dtype,
            caption_templates=self.cfg.data.caption_templates,
        )


class Networks(NamedTuple):
    """What turns images and captions into what is stored."""

    autoencoder: Autoencoder
    text: TextEncoder


def release_networks() -> None:
    """Lets go of this process's networks, which otherwise take up memory while others do the work."""
    _load.cache_clear()


_LOADING = threading.Lock()


@functools.cache
def _load(autoencoder: AutoencoderConfig, model: ModelConfig, text: TextConfig) -> Networks:
    return Networks(Autoencoder.from_config(autoencoder, model), load_text_encoder(text, dtype=jnp.dtype(model.dtype)))
