"""The task that trains a flow of images or latents in stages."""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.runs import load_base, load_base_bridge, open_base
from nami_jax.config import Config, require
from nami_jax.data.examples import Data, open_data
from nami_jax.data.loader import Batch, eval_batches, train_loader
from nami_jax.data.prepared import PreparedData
from nami_jax.monitoring.flops import step_flops
from nami_jax.monitoring.metrics import bar_text
from nami_jax.monitoring.watch import Views
from nami_jax.parallel.activations import require_layout
from nami_jax.parallel.sharding import host_shard, make_mesh, require_divisible, shard_batch, state_shardings
from nami_jax.text.encoder_files import encoder_widths
from nami_jax.training import step as flow_step
from nami_jax.training.bridge_training import train_bridge
from nami_jax.training.compilation import compile_steps, shapes_of
from nami_jax.training.flow_parts import FlowParts, flow_parts
from nami_jax.training.preview import make_preview
from nami_jax.training.state import TrainState, sampling_weights
from nami_jax.training.task import TrainStep, ready_splits


class FlowTask:
    """See `Task`. Its state has a bridge if the run has one, and frozen parameters under LoRA."""

    rate_field = "train.phase_learning_rates"

    def __init__(self, cfg: Config, devices: Sequence[Any] | None = None):
        """Takes the run and the devices to train on; all if not given."""
        self.cfg, self._devices = cfg, devices
        self._mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:  # noqa: D102
        self._mesh = self._mesh or make_mesh(self.cfg.mesh, self._devices)
        return self._mesh

    @property
    def parts(self) -> FlowParts:
        """Network, stages, transition, optimizer, layout and sampler of the run."""
        return flow_parts(self.cfg, self.mesh)

    @functools.cached_property
    def codec(self) -> Autoencoder | None:
        """The frozen autoencoder of a flow of latents."""
        cfg = self.cfg
        return None if cfg.autoencoder.folder is None else Autoencoder.from_config(cfg.autoencoder, cfg.model)

    @functools.cached_property
    def data(self) -> Data:
        """What the run trains on, built at the first use where it is absent."""
        return open_data(self.cfg, self.codec and self.codec.fingerprint)

    def check(self) -> str:
        """See `Task`; the text encoder is to give states of the widths that the network takes."""
        train = self.cfg.train
        require_layout(self.cfg, self.mesh)
        require_divisible("train.stage_batches", train.stage_batches, self.mesh)
        require_divisible("train.eval_batch", ((train.eval_batch,),), self.mesh)
        if self.cfg.data.prepared is None:  # text states come with the latents, whose reader checks their widths
            self._require_text_widths()
        return f"{', then '.join(' + '.join(map(str, sizes)) for sizes in train.stage_batches)} images per step"

    def _require_text_widths(self) -> None:
        for field, width in zip(("text_dim", "pooled_dim"), encoder_widths(self.cfg.text), strict=True):
            value = getattr(self.cfg.model, field)
            require(
                value == width,
                field=f"model.{field}",
                value=value,
                rule=f"the text encoder's width is {width}",
                remedy=f"Set {width}",
            )

    def state_shapes(self) -> TrainState:  # noqa: D102
        return flow_step.state_shapes(self.cfg)

    def abstract_state(self) -> TrainState:  # noqa: D102
        return flow_step.abstract_state(self.cfg, self.mesh)

    def needs_weights(self, workdir: Path) -> bool:
        """See `Task`: they are read at the run's beginning, and with LoRA whenever it continues."""
        if self.cfg.train.init_from is None:
            return False
        return self.cfg.model.lora_rank is not None or not any((workdir / "checkpoints").glob("[0-9]*"))

    def open_weights(self) -> Mapping[str, Any]:  # noqa: D102
        return open_base(self.cfg)

    def ready_sources(self) -> Mapping[str, Sequence[Any]] | None:  # noqa: D102
        cfg = self.cfg
        if cfg.data.prepared is None:
            return ready_splits(cfg.data)
        PreparedData(cfg.data)  # which is missing more often than the autoencoder, and is named first
        return {"train": self.data.train, "held_out": self.data.held_out}

    def load_networks(self) -> None:  # noqa: D102
        _ = self.codec

    def open_data(self) -> list[int]:  # noqa: D102
        return [len(source) for source in self.data.train]

    def loader(self) -> grain.DatasetIterator[Batch]:  # noqa: D102
        return train_loader(self.data.train, self.cfg, host_shard(self.mesh))

    def first_state(self) -> TrainState:
        """See `Task`: starts from `train.init_from`, if that is set, and trains the bridge, if it has one to train."""
        bridge = load_base_bridge(self.cfg)
        base = self._load_base()
        if bridge is None and self.cfg.bridge.kind is not None:
            bridge = train_bridge(self.cfg, self.mesh, self.data.train)
        return flow_step.init_state(self.cfg, self.mesh, base, bridge)

    def continued_state(self, items: Mapping[str, Any]) -> TrainState:
        """See `Task`: what LoRA leaves frozen is where `train.init_from` says, in no checkpoint."""
        return TrainState.from_items(items, None if self.cfg.model.lora_rank is None else self._load_base())

    def _load_base(self) -> Any | None:
        if self.cfg.train.init_from is None:
            return None
        dtype = "float32" if self.cfg.model.lora_rank is None else self.cfg.model.dtype  # frozen ones need not be finer
        return load_base(self.cfg, dtype, lambda params: state_shardings(params, self.mesh))

    def compile(self, state: TrainState, steps: range) -> TrainStep:
        """See `Task`: compiles every shape that is still to come now."""
        null, start = self.data.empty, steps.start - 1
        programs = compile_steps(self.cfg, self.mesh, state, null, start) if steps else {}
        return lambda state, batch: programs[shapes_of(batch)](state, batch, null)

    def flops(self, batch: Batch) -> float:  # noqa: D102
        return step_flops(self.cfg, shapes_of(batch))

    def views(self, folder: Path) -> Views:
        """See `Task`: rates, validation losses and sample grids."""
        cfg = self.cfg
        decode = self.codec.decode if self.codec else np.asarray
        preview = make_preview(cfg, self.data, decode, folder, self.parts.sampler)

        def scalars(summary: Mapping[str, float]) -> dict[str, float]:
            del summary
            return {"corrupt_images": sum(source.num_corrupt for source in self.data.train)}

        def draw(state: TrainState, step: int) -> Path:
            return preview(self.parts.networks(state), step)

        return Views(scalars, bar_text, self.validate, draw)

    def validate(self, state: TrainState) -> dict[str, float]:
        """Returns the mean loss of each stage over the held-out split, with the same draws each time; none if empty."""
        if not self.data.held_out:
            return {}
        losses, params = [], sampling_weights(state)
        eval_step = flow_step.make_eval_step(self.cfg, self.mesh)
        for i, batch in enumerate(eval_batches(self.data.held_out, self.cfg, host_shard(self.mesh))):
            batch = shard_batch(batch, self.mesh)
            losses.append(eval_step(params, state.bridge, batch, self.data.empty, np.uint32(i)))
        return {f"validation/stage_{k}": float(loss) for k, loss in enumerate(np.mean(losses, axis=0), start=1)}

    def finish(self, state: TrainState, workdir: Path) -> None:
        """See `Task`: its checkpoints are all."""

    def what_next(self, workdir: Path) -> str:  # noqa: D102
        command = [sys.executable, "-m", "nami_jax.sample", "--checkpoint", str(workdir), "--prompt", "red apple"]
        return f"Sample from it:\n{shlex.join(command)}"

    def shortened(self, steps: int) -> "FlowTask":  # noqa: D102
        bridge = dataclasses.replace(self.cfg.bridge, steps=min(steps, self.cfg.bridge.steps))
        train = dataclasses.replace(self.cfg.train, log_every=1)
        return FlowTask(dataclasses.replace(self.cfg, bridge=bridge, train=train), self._devices)
