"""A run's folder, checked before anything is compiled and locked for one run at a time."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import logging

from nami_jax.config import ConfigError
from nami_jax.files.disk import lock_if_possible, numbered
from nami_jax.files.output_folder import cannot_write, make_folder
from nami_jax.parallel.processes import first_error, is_main

FOLDERS, RUN_CONFIG = ("checkpoints", "events", "samples"), "config.json"  # what every run writes


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Creates the folder, with its parents, and keeps other runs out of it until the context ends.

    Process 0 locks `workdir/lock`. The kernel frees the lock when that process ends, however it ends; the file stays.

    Raises:
        ConfigError: the folder cannot be created or written, another run is using it, or not all processes see it.
    """
    with contextlib.ExitStack() as stack:
        error = _lock(workdir, stack) if is_main() else None
        error = first_error(error)
        if error is None and not (workdir / "lock").is_file():
            error = (
                f"workdir = {str(workdir)!r}: process {jax.process_index()} does not see it. Set a folder on a disk "
                "that all hosts share."
            )
        error = first_error(error)
        if error is not None:
            raise ConfigError(error)
        yield


def _lock(workdir: Path, stack: contextlib.ExitStack) -> str | None:
    """Locks the folder until `stack` is left, and makes what a run writes to in it; or returns why it cannot."""
    try:
        make_folder(workdir, field="workdir")
        file = stack.enter_context((workdir / "lock").open("ab", buffering=0))
        if not lock_if_possible(file):
            logging.warning("%s is on a file system without locks: do not start a second run in it.", workdir)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        for name in FOLDERS:  # now, and not when an hour's training is to be shown or saved
            make_folder(workdir / name, field="workdir")
        if os.path.lexists(workdir / RUN_CONFIG):
            (workdir / RUN_CONFIG).open("ab").close()
    except BlockingIOError:
        holder = (workdir / "lock").read_text(errors="replace") or "another process"
        return (
            f"workdir = {str(workdir)!r}: {holder} is training in it. Wait for it to finish, stop it, or set another "
            "folder."
        )
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return cannot_write(Path(error.filename or workdir), error, "workdir")
    return None


def finished_steps(workdir: Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, in order: an unfinished save has a longer name."""
    folders = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())


def move_aside(folders: Sequence[Path], target: Path) -> None:
    """Moves folders into `target`, each under its own name or one with a number added.

    Raises:
        ConfigError: they cannot be moved.
    """
    error = None
    if is_main():
        try:
            target.mkdir(exist_ok=True)
            for folder in folders:
                shutil.move(folder, _free(target / folder.name))
        except OSError as problem:
            error = f"workdir = {str(target.parent)!r}: {problem}. Move {', '.join(map(str, folders))} out of the way."
    error = first_error(error)
    if error is not None:
        raise ConfigError(error)


def _free(path: Path) -> Path:
    return next(candidate for candidate in numbered(path) if not candidate.exists())
