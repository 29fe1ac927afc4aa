"""What a preparation is, as it is sent to every worker, and the networks that each loads once."""

import dataclasses
import functools
import threading
from typing import NamedTuple

import jax.numpy as jnp

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import AutoencoderConfig, Config, ModelConfig, TextConfig
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.data.prepared_format import Prepared
from nami_jax.preparation.options import Options
from nami_jax.preparation.sources import RecordSource, UnitList
from nami_jax.preparation.tfds_source import TfdsSource
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextEncoder, load_text_encoder


@dataclasses.dataclass(frozen=True)
class Job:
    """A preparation, as it is sent to workers."""

    cfg: Config | AutoencoderRun
    source: RecordSource
    out: str
    options: Options

    def networks(self) -> "Encoders":
        """Returns autoencoder and text encoder, as far as the run needs them, loaded once in each process.

        Raises:
            ConfigError: the autoencoder has other sizes than the config says, or files of a network are missing.
        """
        if isinstance(self.cfg, AutoencoderRun):
            return Encoders(None, None)
        with _LOADING:  # threads of one worker would all load them
            model = dataclasses.replace(self.cfg.model, dtype=self.options.dtype)
            return _load(self.cfg.autoencoder, model, self.cfg.text)

    @property
    def lower_levels(self) -> int:
        """How many smaller sizes of each picture are encoded beside it: those of the lower stages, if the run asks."""
        if isinstance(self.cfg, AutoencoderRun) or self.cfg.data.lower_stages == "latents":
            return 0
        return self.cfg.model.num_stages - 1

    def settings(self, plan: UnitList) -> Prepared:
        """Returns everything that the prepared data depend on."""
        cfg, (autoencoder, text) = self.cfg, self.networks()
        return Prepared(
            source=self.source.kind,
            source_set=self.source.data.name if isinstance(self.source, TfdsSource) else None,
            source_digest=plan.digest,
            records=sum(unit.count for unit in plan.units),
            unit_size=self.options.unit_size,
            units=len(plan.units),
            buckets=self.cfg.data.bucket_sizes,
            max_upscale=self.options.max_upscale,
            max_pixels=self.options.max_pixels,
            autoencoder=autoencoder.fingerprint if autoencoder else None,
            downscale=autoencoder.downscale if autoencoder else 1,
            channels=autoencoder.channels if autoencoder else 3,
            text_encoder=None if isinstance(cfg, AutoencoderRun) else encoder_id(cfg.text),
            max_length=text.max_length if text else None,
            text_dim=text.embed_dim if text else None,
            pooled_dim=text.pooled_dim if text else None,
            dtype=self.options.dtype,
            caption_templates=self.cfg.data.caption_templates,
            lower_levels=self.lower_levels,
        )


class Encoders(NamedTuple):
    """What turns images and captions into what is stored."""

    autoencoder: Autoencoder | None  # None: pixels are stored
    text: TextEncoder | None  # None: for an autoencoder to train on, which needs no captions


def release_networks() -> None:
    """Releases this process's networks, which otherwise take up memory while others do the work."""
    _load.cache_clear()


_LOADING = threading.Lock()


@functools.cache
def _load(autoencoder: AutoencoderConfig, model: ModelConfig, text: TextConfig) -> Encoders:
    codec = None if autoencoder.folder is None else Autoencoder.from_config(autoencoder, model)
    return Encoders(codec, load_text_encoder(text, dtype=jnp.dtype(model.dtype)))
