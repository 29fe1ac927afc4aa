"""What a run compiles: its programs in the order in which they are needed, the later ones while it trains.

Each bucket of image sizes and each phase's mixture of stages makes one program of the training step.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from nami_jax.config import Config, ConfigError
from nami_jax.data.loader import Batch, StageBatch, order_steps
from nami_jax.parallel.processes import is_main
from nami_jax.parallel.sharding import BATCH
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoders import TextStates

T = TypeVar("T")
BatchShapes = tuple[tuple[int, ...], ...]  # of the images of stage 1..K in one step
THREADS = "compiling"  # how their names begin
NO_MEMORY = "RESOURCE_EXHAUSTED"  # in the message of XLA's error


class Program(NamedTuple):
    """Something that a run compiles.

    Attributes:
        step: the first that needs it, or after which it is first needed.
        name: for people.
        field: of the config, to lower if the devices' memory is not enough.
        compile: so that jax calls nothing but what this has compiled.
    """

    step: int
    name: str
    field: str
    compile: Callable[[], object]


class CompilingAhead:
    """Compiles programs in the order in which they are needed, in threads of its own. Use as a context manager.

    Compiling launches nothing on a device, so all processes of a run still launch the same programs in the same order.
    At the end what is not begun is given up; a process waits at its exit for what is.
    """

    def __init__(self, programs: Sequence[Program]):
        """Begins with the first of the programs."""
        # Half of the processors: the other half reads data and, without an accelerator, trains.
        self._pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), THREADS)
        ordered = sorted(programs, key=lambda program: program.step)
        self._left = [(program.step, self._pool.submit(_compile, program)) for program in ordered]

    def __enter__(self) -> "CompilingAhead":
        """Waits for what the first step needs.

        Raises:
            ConfigError: as `wait`.
        """
        with contextlib.ExitStack() as giving_up:
            giving_up.callback(self.__exit__)
            self.wait(min((step for step, _ in self._left), default=0))
            giving_up.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def lacks(self, step: int) -> bool:
        """Returns whether a program of the steps up to `step` is not known to be there, or another has just ended."""
        return any(first <= step or future.done() for first, future in self._left)

    def wait(self, step: int) -> None:
        """Waits for the programs of all steps up to `step`, with a bar.

        Raises:
            ConfigError: one of them, or of those that happen to be done, needs more memory than the devices have.
        """
        due = [future for first, future in self._left if first <= step and not future.done()]
        if due:
            with progress_bar(due, desc="compiling", unit="program", disable=not is_main()) as bar:
                for future in bar:
                    future.result()
        for _, future in self._left:
            if future.done():
                future.result()
        self._left = [(first, future) for first, future in self._left if not future.done()]


def _compile(program: Program) -> None:
    began = time.perf_counter()
    try:
        program.compile()
    except jax.errors.JaxRuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        raise ConfigError(
            f"{program.field}: the devices' memory is not enough for {program.name}: {str(error).splitlines()[0]} "
            f"Lower {program.field}; `python -m nami_jax.plan` says what fits."
        ) from error
    if is_main():
        tqdm.write(f"compiled {program.name} in {time.perf_counter() - began:.1f} s")


@contextlib.contextmanager
def not_waiting_for_programs() -> Iterator[None]:
    """Ends the process at the end of the block, with its status, if a program that nobody needs still compiles there.

    For commands of one process. Nothing interrupts a compilation, and Python would wait for it, minutes where the
    network is large.
    """
    status = 0
    try:
        yield
    except BaseException as error:
        if not _leaves():  # asked once: a program may be done a moment later
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
            status = 1
        elif isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            status = 1
        else:
            status = error.code or 0
    else:
        if not _leaves():
            return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leaves() -> bool:
    compiling = any(thread.name.startswith(THREADS) for thread in threading.enumerate())
    return compiling and not jax.distributed.is_initialized()  # several processes end together


def step_shapes(cfg: Config) -> list[BatchShapes]:
    """Lists the shapes (B_k, H_k, W_k, C) of a run's steps: one entry per phase that has steps and bucket."""
    downscale = cfg.autoencoder.downscale
    return [
        phase_shapes(cfg, phase, height // downscale, width // downscale)
        for phase, (first, stop) in enumerate(itertools.pairwise(cfg.train.phase_bounds))
        if stop > first
        for height, width in cfg.data.bucket_sizes
    ]


def phase_shapes(cfg: Config, phase: int, height: int, width: int) -> BatchShapes:
    """Returns the shapes of a step of the phase, numbered from 0, whose last stage is height x width latents."""
    return stage_shapes(cfg.train.stage_batches[phase], (height, width, cfg.model.channels))


def stage_shapes(counts: Sequence[int], shape: tuple[int, int, int]) -> BatchShapes:
    """Returns the shapes of so many images of each stage, given (H, W, C) of the last one's."""
    height, width, channels = shape
    factors = [2**k for k in range(len(counts) - 1, -1, -1)]
    return tuple((count, height // f, width // f, channels) for count, f in zip(counts, factors, strict=True))


def first_steps(
    cfg: Config, sizes: Sequence[tuple[int, int]], lengths: Sequence[int], steps: range
) -> dict[BatchShapes, int]:
    """Returns all shapes that the steps `steps`, which count from 1, train on, and the first step of each.

    Args:
        cfg: the run.
        sizes: height and width of each source's examples.
        lengths: how many samples each source has.
        steps: of the run.
    """
    sources = order_steps(cfg, lengths).sources
    phases = np.repeat(np.arange(len(cfg.train.stage_batches)), np.diff(cfg.train.phase_bounds))
    found: dict[BatchShapes, int] = {}
    for phase, source in itertools.product(range(len(cfg.train.stage_batches)), range(len(sizes))):
        (at,) = np.nonzero((phases == phase) & (sources == source))  # steps that count from 0
        at = at[(at >= steps.start - 1) & (at < steps.stop - 1)]
        if len(at):
            shapes = phase_shapes(cfg, phase, *sizes[source])
            found[shapes] = min(found.get(shapes, cfg.train.steps), int(at[0]) + 1)
    return found


def first_due(steps: range, every: int) -> int:
    """Returns the first of `steps` after which something is due that is done `every` so many steps and at the last."""
    return min(-(-steps.start // every) * every, steps.stop - 1)


def shapes_of(batch: Batch) -> BatchShapes:
    """Returns the shapes of a batch's images."""
    return tuple(part.images.shape for part in batch)


def shapes_text(shapes: Sequence[tuple[int, ...]]) -> str:
    """Writes shapes as "64x8x8x3 + 32x16x16x3", stage by stage."""
    return " + ".join("x".join(map(str, stage)) for stage in shapes)


def abstract(arrays: T) -> T:
    """Returns a pytree of arrays as ShapeDtypeStructs with their shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)


def null_states(cfg: Config) -> TextStates:
    """Returns the shapes of the empty caption's states, (1, T, D) and (1, P)."""
    shapes = (1, cfg.text.max_length, cfg.model.text_dim), (1, cfg.model.pooled_dim)
    states: Any = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return TextStates(*states)


def abstract_batch(cfg: Config, stages: BatchShapes, mesh: Mesh, null: TextStates) -> Batch:
    """Returns a batch as ShapeDtypeStructs with their shardings: images of `stages` and states as long as `null`'s."""

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, BATCH))

    def coarse(shape: tuple[int, ...]) -> Any:
        batch, height, width, channels = shape
        return array(batch, height // 2, width // 2, channels) if cfg.data.lower_stages == "pixels" else None

    return tuple(
        StageBatch(
            array(*shape),
            TextStates(*(array(shape[0], *states.shape[1:]) for states in null)),
            coarse(shape) if number > 1 else None,
        )
        for number, shape in enumerate(stages, start=1)
    )
