"""The task that trains a flow of images or latents in stages."""

import dataclasses
import functools
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jax.sharding import Mesh

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.beginning import find_origin, load_base, load_base_bridge, open_base
from nami_jax.checkpoints.runs import BASE, load_frozen, load_run, open_folder
from nami_jax.checkpoints.same_run import AUTOENCODER, TEXT_ENCODER
from nami_jax.checkpoints.workdir import finished_steps
from nami_jax.config import Config, require
from nami_jax.data.examples import Data, ExampleSource, open_data
from nami_jax.data.loader import Batch, eval_batches, train_loader
from nami_jax.data.prepared import PreparedData
from nami_jax.monitoring.flops import step_flops
from nami_jax.monitoring.metrics import bar_text
from nami_jax.monitoring.watch import VALIDATION_LOSS, Views
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.activations import require_layout
from nami_jax.parallel.sharding import host_shard, make_mesh, require_divisible, shard_batch, state_shardings
from nami_jax.release.network_folders import copy_base
from nami_jax.text.encoder_files import encoder_id, encoder_widths
from nami_jax.training import step as flow_step
from nami_jax.training.bridge_training import train_bridge
from nami_jax.training.compilation import (
    BatchShapes,
    Program,
    abstract,
    abstract_batch,
    first_due,
    first_steps,
    shapes_of,
    shapes_text,
    stage_shapes,
)
from nami_jax.training.flow_parts import FlowParts, flow_parts
from nami_jax.training.preview import Preview
from nami_jax.training.sample_scores import SampleScores
from nami_jax.training.state import TrainState, sampling_weights
from nami_jax.training.task import TrainStep, ready_splits


class FlowTask:
    """See `Task`. Its state has a bridge if the run has one, and frozen parameters under LoRA."""

    rate_field = "train.phase_learning_rates"

    def __init__(self, cfg: Config, devices: Sequence[Any] | None = None, *, dry: bool = False):
        """Takes the run and the devices to train on, all if not given; `dry` compiles all of it before its steps."""
        self.cfg, self._devices, self._dry = cfg.located(), devices, dry
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

    @functools.cached_property
    def preview(self) -> Preview:
        """The pictures for watching the run."""
        return Preview(self.cfg, self.data, self.codec, self.parts.sampler)

    def check(self) -> str:
        """See `Task`; the text encoder is to give states of the widths that the network takes."""
        train = self.cfg.train
        require_layout(self.cfg, self.mesh)
        flow_step.require_parts(self.cfg, self.mesh)
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
        return self.cfg.model.lora_rank is not None or not finished_steps(workdir)

    def open_weights(self, workdir: Path) -> Mapping[str, Any]:  # noqa: D102
        copied = self.cfg.model.lora_rank is not None and (workdir / BASE).is_dir()
        return open_folder(workdir / BASE, self.cfg.model) if copied else open_base(self.cfg)

    def ready_sources(self) -> Mapping[str, Sequence[Any]] | None:  # noqa: D102
        cfg = self.cfg
        if cfg.data.prepared is None:
            return ready_splits(cfg.data)
        PreparedData(cfg.data)  # which is missing more often than the autoencoder, and is named first
        return {"train": self.data.train, "held_out": self.data.held_out}

    def load_networks(self) -> None:  # noqa: D102
        _ = self.codec

    def frozen(self) -> Mapping[str, str]:
        """See `Task`: the text encoder is that of the prepared data, if there are any."""
        text = encoder_id(self.cfg.text) if self.cfg.data.prepared is None else self.data.text_encoder
        return {TEXT_ENCODER: text} | ({AUTOENCODER: self.codec.fingerprint} if self.codec else {})

    def sample_counts(self) -> list[int]:  # noqa: D102
        return [len(source) for source in self.data.train]

    def loader(self) -> grain.DatasetIterator[Batch]:  # noqa: D102
        return train_loader(self.data.train, self.cfg, host_shard(self.mesh))

    def first_state(self, workdir: Path) -> TrainState:
        """See `Task`: starts from `train.init_from`, if that is set, and trains the bridge, if it has one to train."""
        cfg = self.cfg
        bridge = load_base_bridge(cfg)
        base = None
        if cfg.model.lora_rank is not None:
            self._keep_base(workdir)
            base = self._load_frozen(workdir)
        elif cfg.train.init_from is not None:
            base = load_base(cfg, self._shardings)
        if bridge is None and cfg.bridge.kind is not None:
            bridge = train_bridge(cfg, self.mesh, self.data.train)
        return flow_step.init_state(cfg, self.mesh, base, bridge)

    def continued_state(self, items: Mapping[str, Any], workdir: Path) -> TrainState:
        """See `Task`: what LoRA leaves frozen is in no checkpoint."""
        return TrainState.from_items(items, None if self.cfg.model.lora_rank is None else self._load_frozen(workdir))

    def _keep_base(self, workdir: Path) -> None:
        """Copies what LoRA leaves frozen into the workdir if it is another run's, which goes on or is deleted."""
        origin = find_origin(self.cfg.train.init_from or "")
        run = load_run(origin.folder, origin.step) if origin.is_run else None
        with distributed.main_first("base"):
            if distributed.is_main():
                shutil.rmtree(workdir / BASE, ignore_errors=True)  # of a run that was killed before its first save
                if run is not None:
                    copy_base(run, workdir / BASE)

    def _load_frozen(self, workdir: Path) -> Any:
        return load_frozen(self.cfg, workdir, self.cfg.model.dtype, self._shardings)  # they need not be finer

    def _shardings(self, params: Any) -> Any:
        return state_shardings(params, self.mesh)

    def train_step(self) -> TrainStep:  # noqa: D102
        step, null = flow_step.make_train_step(self.cfg, self.mesh), self.data.empty
        return lambda state, batch: step(state, batch, null)

    def programs(self, state: TrainState, steps: range) -> list[Program]:
        """See `Task`: a step for each phase and bucket, a validation for each bucket, and the pictures."""
        cfg, train, null = self.cfg, self.cfg.train, self.data.empty
        state = abstract(state)
        step: Any = flow_step.make_train_step(cfg, self.mesh)
        validation: Any = flow_step.make_eval_step(cfg, self.mesh)

        def batch(shapes: BatchShapes) -> Batch:
            return abstract_batch(cfg, shapes, self.mesh, null)

        def compile_step(shapes: BatchShapes) -> None:
            step.lower(state, batch(shapes), null).compile()

        def compile_validation(shapes: BatchShapes) -> None:
            arguments = sampling_weights(state), state.bridge, batch(shapes), null, np.uint32(0)
            validation.lower(*arguments).compile()

        def program(at: int, what: str, shapes: BatchShapes, field: str, compile_: Callable) -> Program:
            return Program(
                at, f"the {what} on images of {shapes_text(shapes)}", field, functools.partial(compile_, shapes)
            )

        covered = range(1, train.steps + 1) if self._dry else steps
        firsts = first_steps(cfg, _sizes(self.data.train), [len(source) for source in self.data.train], covered)
        held_out = [
            stage_shapes([train.eval_batch] * cfg.model.num_stages, (*size, cfg.model.channels))
            for size in dict.fromkeys(_sizes(self.data.held_out))
        ]
        validated, drawn = (first_due(steps, every) for every in (train.eval_every, train.sample_every))
        programs = [
            *(program(at, "step", shapes, "train.stage_batches", compile_step) for shapes, at in firsts.items()),
            *(program(validated, "validation", shapes, "train.eval_batch", compile_validation) for shapes in held_out),
            Program(
                drawn, "the pictures", "train.sample_images", lambda: self.preview.compile(self.parts.networks(state))
            ),
        ]
        return [program._replace(step=steps.start) for program in programs] if self._dry else programs

    def flops(self, batch: Batch) -> float:  # noqa: D102
        return step_flops(self.cfg, shapes_of(batch))

    def views(self, folder: Path) -> Views:
        """See `Task`: rates, validation losses, sample grids and, if asked for, scores of samples."""
        preview = self.preview

        def scalars(summary: Mapping[str, float]) -> dict[str, float]:
            del summary
            return {"corrupt_images": sum(source.num_corrupt for source in self.data.train)}

        def draw(state: TrainState, step: int) -> Path:
            return preview.draw(self.parts.networks(state), step, folder)

        if self.cfg.train.evaluate_every is None:
            return Views(scalars, bar_text, self.validate, draw)
        samples = SampleScores(self.cfg, self.data, self.codec, self.parts.sampler)

        def evaluate(state: TrainState) -> dict[str, float]:
            return samples.measure(self.parts.networks(state))

        return Views(scalars, bar_text, self.validate, draw, evaluate, self.cfg.train.evaluate_every)

    def validate(self, state: TrainState) -> dict[str, float]:
        """Returns the mean loss of each stage over the held-out split, if any, and of all, with the same draws."""
        if not self.data.held_out:
            return {}
        losses, params = [], sampling_weights(state)
        eval_step = flow_step.make_eval_step(self.cfg, self.mesh)
        for i, batch in enumerate(eval_batches(self.data.held_out, self.cfg, host_shard(self.mesh))):
            batch = shard_batch(batch, self.mesh)
            losses.append(eval_step(params, state.bridge, batch, self.data.empty, np.uint32(i)))
        by_stage = np.mean(losses, axis=0)
        scalars = {f"validation/stage_{k}": float(loss) for k, loss in enumerate(by_stage, start=1)}
        return scalars | {VALIDATION_LOSS: float(by_stage.mean())}

    def finish(self, state: TrainState, workdir: Path) -> None:
        """See `Task`: its checkpoints are all."""

    def what_next(self, workdir: Path) -> str:
        """See `Task`: suggests the first caption that it was trained on."""
        first = self.data.train[0]
        prompt = first.example(first[0], None).caption
        command = [sys.executable, "-m", "nami_jax.sample", "--checkpoint", str(workdir), "--prompt", prompt]
        return f"Sample from it:\n{shlex.join(command)}"

    def shortened(self, steps: int) -> "FlowTask":  # noqa: D102
        bridge = dataclasses.replace(self.cfg.bridge, steps=min(steps, self.cfg.bridge.steps))
        train = dataclasses.replace(self.cfg.train, log_every=1)
        return FlowTask(dataclasses.replace(self.cfg, bridge=bridge, train=train), self._devices, dry=True)


def _sizes(sources: Sequence[ExampleSource]) -> list[tuple[int, int]]:
    """Returns height and width of each source's examples."""
    height_width = [source.example(source[0], None).image.shape[:2] for source in sources]
    return [(int(height), int(width)) for height, width in height_width]
