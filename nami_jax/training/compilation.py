"""The closed set of shapes that a run trains on, compiled before its first step.

Each bucket of image sizes and each phase's mixture of stages makes one program of the training step. Validation and
sample grids compile theirs when they are first needed.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from nami_jax.config import Config
from nami_jax.data.loader import Batch, StageBatch
from nami_jax.parallel.processes import is_main
from nami_jax.parallel.sharding import BATCH
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoders import TextStates
from nami_jax.training.state import TrainState
from nami_jax.training.step import make_train_step

BatchShapes = tuple[tuple[int, ...], ...]  # of the images of stage 1..K in one step


def step_shapes(cfg: Config, start: int = 0) -> list[BatchShapes]:
    """Lists the shapes (B_k, H_k, W_k, C) of the steps after `start`: one entry per phase that is left and bucket."""
    bounds = cfg.train.phase_bounds
    factors = [cfg.autoencoder.downscale * 2**k for k in range(cfg.model.num_stages - 1, -1, -1)]
    return [
        tuple((count, height // f, width // f, cfg.model.channels) for count, f in zip(sizes, factors, strict=True))
        for sizes, (first, stop) in zip(cfg.train.stage_batches, itertools.pairwise(bounds), strict=True)
        if stop > max(first, start)
        for height, width in cfg.data.bucket_sizes
    ]


def shapes_of(batch: Batch) -> BatchShapes:
    """Returns the shapes by which `compile_steps` keeps a batch's program."""
    return tuple(part.images.shape for part in batch)


def shapes_text(shapes: BatchShapes) -> str:
    """Writes shapes as "64x8x8x3 + 32x16x16x3", stage by stage."""
    return " + ".join("x".join(map(str, stage)) for stage in shapes)


def compile_steps(
    cfg: Config, mesh: Mesh, state: TrainState, null: TextStates, start: int
) -> dict[BatchShapes, Callable[[TrainState, Batch, TextStates], tuple[TrainState, dict]]]:
    """Compiles the training step for every shape that is still to come, several at once, and lists them.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
        state: the training state, arrays or ShapeDtypeStructs with shardings.
        null: states of the empty caption, B = 1, which give the text's shapes.
        start: steps that are done.

    Returns:
        The program (state, batch, null) -> (state, metrics) by the shapes of its images.
    """
    shapes, step = list(dict.fromkeys(step_shapes(cfg, start))), make_train_step(cfg, mesh)
    lowered = [step.lower(state, abstract_batch(stages, mesh, null), null) for stages in shapes]  # pyright: ignore[reportFunctionMemberAccess]
    workers = min(len(shapes), os.cpu_count() or 1)
    bar = progress_bar(total=len(shapes), desc="compiling", unit="shape", disable=not is_main())
    with ThreadPoolExecutor(max(workers, 1)) as pool, bar:
        compiled = {}
        for stages, program in zip(shapes, pool.map(lambda low: low.compile(), lowered), strict=True):
            if is_main():
                bar.write(f"compiled the step on images of {shapes_text(stages)}")
            bar.update()
            compiled[stages] = program
    return compiled


def abstract_batch(stages: BatchShapes, mesh: Mesh, null: TextStates) -> Batch:
    """Returns a batch as ShapeDtypeStructs with their shardings: images of `stages` and states as long as `null`'s."""

    def abstract(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, BATCH))

    return tuple(
        StageBatch(abstract(*shape), TextStates(*(abstract(shape[0], *states.shape[1:]) for states in null)))
        for shape in stages
    )
