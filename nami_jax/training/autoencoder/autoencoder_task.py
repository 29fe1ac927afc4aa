"""The task that trains an autoencoder, and leaves a `vae` folder that a flow of latents can be trained with."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.autoencoder.codec import save_autoencoder
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.data.crops import crop_loader
from nami_jax.data.examples import Pictures, open_pictures
from nami_jax.models.vgg import Vgg
from nami_jax.monitoring.watch import Views
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.sharding import BATCH, host_shard, make_mesh, require_divisible
from nami_jax.training.autoencoder import reconstruction
from nami_jax.training.autoencoder.perceptual import load_perceptual
from nami_jax.training.autoencoder.review import make_preview, make_validation, with_unit_latents
from nami_jax.training.compilation import Program, abstract, shapes_text
from nami_jax.training.state import TrainState
from nami_jax.training.task import TrainStep, ready_splits


class AutoencoderTask:
    """See `Task`. Each device has all parameters and its share of the batch."""

    rate_field = "train.learning_rate"

    def __init__(self, cfg: AutoencoderRun, devices: Sequence[Any] | None = None):
        """Takes the run and the devices to train on; all if not given."""
        self.cfg, self._devices = cfg, devices
        self._mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:  # noqa: D102
        self._mesh = self._mesh or make_mesh(devices=self._devices)
        return self._mesh

    @functools.cached_property
    def vgg(self) -> Vgg | None:
        """The frozen network of the perceptual part of the loss, on every device; None for a loss without it."""
        loss = self.cfg.loss
        vgg = load_perceptual(loss.perceptual_blocks) if loss.perceptual else None
        return jax.device_put(vgg, NamedSharding(self.mesh, PartitionSpec()))

    @functools.cached_property
    def data(self) -> Pictures:
        """What the run trains on, built at the first use where it is absent."""
        return open_pictures(self.cfg.data)

    def check(self) -> str:  # noqa: D102
        require_divisible("train.batch", ((self.cfg.train.batch,),), self.mesh)
        return f"{self.cfg.train.batch} images per step"

    def state_shapes(self) -> TrainState:  # noqa: D102
        return reconstruction.state_shapes(self.cfg)

    def abstract_state(self) -> TrainState:  # noqa: D102
        return reconstruction.abstract_state(self.cfg, self.mesh)

    def needs_weights(self, workdir: Path) -> bool:
        """See `Task`: it starts from random ones."""
        del workdir
        return False

    def open_weights(self, workdir: Path) -> Mapping[str, Any]:  # noqa: D102
        del workdir
        return {}

    def ready_sources(self) -> Mapping[str, Sequence[Any]] | None:  # noqa: D102
        if self.cfg.data.prepared is None:
            return ready_splits(self.cfg.data)
        return self.data._asdict()

    def load_networks(self) -> None:  # noqa: D102
        _ = self.vgg

    def frozen(self) -> Mapping[str, str]:
        """See `Task`: what it is trained by changes nothing that is drawn."""
        return {}

    def sample_counts(self) -> list[int]:  # noqa: D102
        return [len(source) for source in self.data.train]

    def loader(self) -> grain.DatasetIterator[Any]:  # noqa: D102
        train = self.cfg.train
        return crop_loader(
            self.data.train,
            seed=train.seed,
            batch=train.batch,
            crop=train.crop,
            flip=self.cfg.data.flip,
            shard=host_shard(self.mesh),
        )

    def first_state(self, workdir: Path) -> TrainState:  # noqa: D102
        del workdir
        return reconstruction.init_state(self.cfg, self.mesh)

    def continued_state(self, items: Mapping[str, Any], workdir: Path) -> TrainState:  # noqa: D102
        del workdir
        return TrainState.from_items(items)

    def train_step(self) -> TrainStep:  # noqa: D102
        step, vgg = reconstruction.make_train_step(self.cfg, self.mesh), self.vgg
        return lambda state, batch: step(state, vgg, batch)

    def programs(self, state: TrainState, steps: range) -> list[Program]:
        """See `Task`: the step, of one shape."""
        train = self.cfg.train
        state = abstract(state)
        images = jax.ShapeDtypeStruct(
            (train.batch, train.crop, train.crop, 3), np.float32, sharding=NamedSharding(self.mesh, BATCH)
        )
        step: Any = reconstruction.make_train_step(self.cfg, self.mesh)
        name = f"the step on images of {shapes_text([images.shape])}"
        return [Program(steps.start, name, "train.batch", lambda: step.lower(state, self.vgg, images).compile())]

    def flops(self, batch: jax.Array) -> float:  # noqa: D102
        del batch
        return 0.0

    def views(self, folder: Path) -> Views:
        """See `Task`: rates, the quality of held-out reconstructions and grids of them."""

        def scalars(summary: Mapping[str, float]) -> dict[str, float]:
            images_per_second = self.cfg.train.batch * summary["steps_per_second"]
            return {
                "images_per_second": images_per_second,
                "corrupt_images": sum(source.num_corrupt for source in self.data.train),
            }

        validate = make_validation(self.cfg, self.vgg, self.data.held_out)
        return Views(scalars, _bar_text, validate, make_preview(self.cfg, self.data, folder))

    def finish(self, state: TrainState, workdir: Path) -> None:
        """See `Task`: writes `workdir/vae` with the EMA weights, scaled for latents of mean 0 and deviation 1.

        Raises:
            ConfigError: all latents are the same.
        """
        with distributed.main_first("vae"):
            if distributed.is_main():
                save_autoencoder(workdir / "vae", with_unit_latents(self.cfg, state.ema, self.data.train))

    def what_next(self, workdir: Path) -> str:  # noqa: D102
        return f"To train a flow of its latents, set autoencoder.folder = {str(workdir / 'vae')!r}."

    def shortened(self, steps: int) -> "AutoencoderTask":  # noqa: D102
        del steps
        train = dataclasses.replace(self.cfg.train, log_every=1)
        return AutoencoderTask(dataclasses.replace(self.cfg, train=train), self._devices)


def _bar_text(scalars: Mapping[str, float]) -> str:
    loss = f"{scalars['loss']:.4f}" if "loss" in scalars else "none: all steps were skipped"
    return f"images/s {scalars['images_per_second']:.0f}, loss {loss}"
