"""A run's first two steps in a temporary folder: what compiles, fits and loads there will do so in the run."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from nami_jax.config.keeping import most_kept
from nami_jax.monitoring.watch import Extras
from nami_jax.parallel.kept_programs import compilations
from nami_jax.training.loop import run
from nami_jax.training.task import Task

STEPS = 2


def dry_run(task: Task, workdir: Path) -> str:
    """Runs the first two steps of a run, with all that the run compiles, validates, draws and saves.

    A bridge is trained for two steps as well. What is in `workdir` is neither read nor changed.

    Args:
        task: the run.
        workdir: where it would be stored; the temporary folder is beside it, so that saving is tried on the same disk.

    Returns:
        What it took, for people.

    Raises:
        ConfigError, NonFiniteError, ...: as the run would.
    """
    figures: dict[str, float] = {}
    extras = Extras(on_scalars=lambda step, scalars: figures.update(scalars))
    with compilations() as seconds, _folder_beside(workdir) as folder:
        state = run(task.shortened(STEPS), folder, stop_after=STEPS, extras=extras)
    saved = sum(leaf.nbytes for leaf in jax.tree.leaves(state.items()))
    memory = task.mesh.local_devices[0].memory_stats()
    return report(figures, seconds, saved, most_kept(task.cfg.train), memory)


def report(
    figures: Mapping[str, float],
    compile_seconds: Sequence[float],
    saved: int,
    kept: int,
    memory: Mapping[str, int] | None,
) -> str:
    """Formats what a dry run took.

    Args:
        figures: what was logged last: of the last step alone.
        compile_seconds: of each program.
        saved: bytes of a checkpoint, which may take less on disk.
        kept: how many checkpoints there will be at most.
        memory: what the device reports of its own; None: nothing.
    """
    lines = [
        f"compiled {len(compile_seconds)} programs in {sum(compile_seconds):.1f} s, one after the other",
        f"last step: {figures['step_time_ms/p50'] / 1e3:.3f} s, {figures['images_per_second']:.1f} images/s"
        + (f", MFU {figures['mfu']:.0%}" if "mfu" in figures else ""),
        f"checkpoints: at most {kept}, each up to {saved / 1e9:.3f} GB",
    ]
    if memory is None or "peak_bytes_in_use" not in memory:
        lines.append("memory: not reported by the device")
    else:
        limit = f" of {memory['bytes_limit'] / 2**30:.2f} GiB" if "bytes_limit" in memory else ""
        lines.append(f"memory: at most {memory['peak_bytes_in_use'] / 2**30:.2f} GiB{limit} on the first device")
    return "\n".join(lines)


@contextlib.contextmanager
def _folder_beside(workdir: Path) -> Iterator[Path]:
    """Gives a folder on the disk that `workdir` is on, the same for all processes, and removes it."""
    parent = next(parent for parent in workdir.absolute().parents if parent.exists())
    folder = parent / f".dry_run-{workdir.name}"
    shutil.rmtree(folder, ignore_errors=True)  # of a dry run that was killed
    multihost_utils.sync_global_devices("no folder is left")
    try:
        yield folder
        multihost_utils.sync_global_devices("no process needs the folder any more")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
