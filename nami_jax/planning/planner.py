"""The whole plan of a run on some hardware: which programs there are, what they need, and the batch that fits."""

import dataclasses
import functools
from collections.abc import Mapping

from jax.sharding import Mesh

from nami_jax.config import Config
from nami_jax.parallel.sharding import batch_parts
from nami_jax.planning.batches import LargestBatch, batch_unit, largest_batch, with_batch
from nami_jax.planning.costs import shape_flops
from nami_jax.planning.hardware import Hardware
from nami_jax.planning.memory import Measured, measure, shard_bytes, state_parts
from nami_jax.planning.programs import lower_step, preview_images, run_state, stage_tracers
from nami_jax.training.compilation import BatchShapes, abstract_batch, null_states, shapes_text, step_shapes
from nami_jax.training.flow_task import FlowTask


@dataclasses.dataclass(frozen=True)
class Plan:
    """The findings about a run on some hardware."""

    cfg: Config
    hardware: Hardware
    mesh: Mesh
    steps: Mapping[BatchShapes, Measured | None]  # by the images' shapes, costliest first; None: not compiled
    unit: tuple[int, ...]  # smallest batch with the costliest shape's ratios that the devices can share
    largest: LargestBatch | None  # multiple of it that fits; None: memory does not grow with the batch
    preview_images: int  # drawn at once to show progress
    stages: list[Measured]  # of drawing them, while the training state is in memory

    @property
    def costliest(self) -> BatchShapes:
        """The shapes of the training step with the most FLOPs."""
        return next(iter(self.steps))

    @property
    def fits(self) -> bool:
        """Whether everything that was compiled fits."""
        return all(measured.fits for measured in [*self.steps.values(), *self.stages] if measured is not None)


def make_plan(cfg: Config, hardware: Hardware, *, all_shapes: bool = False, verify: bool = False) -> Plan:
    """Compiles a run's programs for `hardware` and collects what they take.

    Args:
        cfg: the run.
        hardware: the devices and their memory.
        all_shapes: compile the training step for every shape, not for the costliest alone.
        verify: compile the largest batch too, which is extrapolated otherwise.

    Raises:
        ConfigError: the devices cannot share the mesh, the network or the batches.
    """
    task = FlowTask(cfg, hardware.devices)
    task.check()
    mesh = task.mesh
    shapes = sorted(dict.fromkeys(step_shapes(cfg)), key=lambda s: -sum(shape_flops(cfg, s)))

    @functools.cache
    def step(images: BatchShapes) -> Measured:
        return measure_step(cfg, hardware, mesh, images)

    def needed(units: int) -> int | None:
        found = step(with_batch(shapes[0], [units * count for count in unit]))
        return found.total if found.fits else None

    stage_batch = [shape[0] for shape in shapes[0]]
    unit = batch_unit(stage_batch, batch_parts(mesh) * cfg.train.accumulation_steps)
    largest = largest_batch(stage_batch[0] // unit[0], hardware.memory_limit, needed, verify)
    steps = {images: step(images) if all_shapes or images == shapes[0] else None for images in shapes}
    images = preview_images(cfg, mesh)
    return Plan(cfg, hardware, mesh, steps, unit, largest, images, measure_stages(cfg, hardware, mesh, images))


def measure_step(cfg: Config, hardware: Hardware, mesh: Mesh, shapes: BatchShapes) -> Measured:
    """Compiles the training step for images of `shapes`."""
    batch = shard_bytes(abstract_batch(cfg, shapes, mesh, null_states(cfg))) + shard_bytes(null_states(cfg))
    known = state_parts(run_state(cfg, mesh)) | {"batch": batch}
    name = f"the training step on {shapes_text(shapes)}"
    height, width = shapes[-1][1:3]
    lengths = attended_lengths(cfg, mesh, height, width)
    return measure(name, lambda: lower_step(cfg, mesh, shapes), known, hardware, lengths=lengths)


def measure_stages(cfg: Config, hardware: Hardware, mesh: Mesh, images: int) -> list[Measured]:
    """Compiles each stage of drawing `images` pictures beside the training state.

    Its arguments are a part of that state, and latents and text, which are small.
    """
    state = run_state(cfg, mesh)
    arguments = shard_bytes([state.ema, state.frozen])
    resident = sum(state_parts(state).values()) - arguments
    known, side = {"network": arguments}, cfg.data.side // cfg.autoencoder.downscale
    lengths = attended_lengths(cfg, mesh, side, side)
    return [
        measure(f"stage {k} of {images} pictures", lower, known, hardware, resident, lengths[k - 1 : k])
        for k, lower in enumerate(stage_tracers(cfg, mesh, images), start=1)
    ]


def attended_lengths(cfg: Config, mesh: Mesh, height: int, width: int) -> list[tuple[int, int]]:
    """Returns each stage's queries and keys on one device, for latents of height x width in the last stage."""
    lengths = [tokens + cfg.text.max_length for tokens in cfg.model.image_tokens(height, width)]
    return [(length // mesh.shape["sequence"], length) for length in lengths]
