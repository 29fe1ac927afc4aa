"""Checks whether a workdir suits a run: written, read, renamed, seen by all hosts, and fast enough for its size."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from nami_jax.config import ConfigError, require
from nami_jax.files.output_folder import make_folder
from nami_jax.host_checks.findings import OK, WARNING, Finding

SAMPLE = 32 * 2**20  # bytes that are written and read back
FLOOR = 2e6  # bytes a second: below it even a small run waits for its checkpoints
SLOW = 600  # seconds; a save that takes longer should not be due often


def trace(workdir: Path, process: int) -> Path:
    """Returns the folder that a process leaves in the workdir until all have looked for it."""
    return workdir / f".preflight-{process}"


def check_storage(workdir: Path, checkpoint: int, keep: int, floor: float = FLOOR) -> Finding:
    """Writes and reads a sample in the workdir, and renames its folder as Orbax does to finish a checkpoint.

    Leaves the folder `trace` behind for `check_shared`.

    Args:
        workdir: of the run; created if needed, as the run would.
        checkpoint: bytes of one checkpoint.
        keep: how many of them the run keeps.
        floor: bytes a second that must be written.

    Raises:
        ConfigError: the folder cannot be used, is too small, or too slow.
    """
    try:
        make_folder(workdir, field="workdir")
        write, read = _rates(workdir)
        free = shutil.disk_usage(workdir).free
    except OSError as error:
        raise ConfigError(
            f"workdir = {str(workdir)!r}: {error.strerror}: {error.filename}. "
            "Set a folder that this host can write to, with enough free space."
        ) from error
    seconds = checkpoint / jax.process_count() / write
    text = (
        f"writes {write / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s; a save of {checkpoint / 1e9:.3g} GB takes "
        f"about {max(seconds, 1):.0f} s"
    )
    require(
        write >= floor,
        field="workdir",
        value=str(workdir),
        rule=text,
        remedy=f"Set a folder that can be written at {floor / 1e6:.0f} MB/s or more",
    )
    require(
        free >= checkpoint,
        field="workdir",
        value=str(workdir),
        rule=f"has {free / 1e9:.3g} GB free for checkpoints of {checkpoint / 1e9:.3g} GB",
        remedy="Free some space",
    )
    if free < checkpoint * (keep + 1):
        return Finding(
            "storage",
            WARNING,
            f"{text}; {free / 1e9:.3g} GB are free for {keep} checkpoints and one that "
            "is being written. Free some space, or lower train.keep_checkpoints, or keep fewer by train.keep_best and "
            "train.keep_every.",
        )
    if seconds > SLOW:
        return Finding("storage", WARNING, f"{text}. Raise train.checkpoint_every, so that saves are further apart.")
    return Finding("storage", OK, text, cost=seconds)


def _rates(workdir: Path) -> tuple[float, float]:
    """Returns bytes a second written and read."""
    final = trace(workdir, jax.process_index())
    unfinished, sample = final.with_name(f"{final.name}.tmp"), os.urandom(SAMPLE)
    for left_over in (unfinished, final):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished.mkdir()
    start = time.perf_counter()
    with (unfinished / "sample").open("wb") as file:
        file.write(sample)
        file.flush()
        os.fsync(file.fileno())
    written = time.perf_counter()
    unfinished.rename(final)  # fails in a bucket without folders of its own
    with (final / "sample").open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the storage
        reading = time.perf_counter()
        same = file.read() == sample
    require(
        same,
        field="workdir",
        value=str(workdir),
        rule="returns different bytes from those that were written",
        remedy="Set another folder",
    )
    (final / "sample").unlink()
    return SAMPLE / (written - start), SAMPLE / (time.perf_counter() - reading)


def check_shared(workdir: Path, processes: Sequence[int]) -> str:
    """Looks for the traces that `processes` have left; raises `ConfigError` if one is not there."""
    unseen = [process for process in processes if not trace(workdir, process).is_dir()]
    require(
        not unseen,
        field="workdir",
        value=str(workdir),
        rule=f"this host does not see what processes {unseen} wrote there",
        remedy="Set one folder that all hosts share, e.g. in a bucket that is mounted on each",
    )
    return "the workdir is the same on all hosts" if jax.process_count() > 1 else "one host"


def clean(workdir: Path) -> None:
    """Removes this process's trace."""
    shutil.rmtree(trace(workdir, jax.process_index()), ignore_errors=True)
