"""Folders that appear whole or not at all."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from nami_jax.config import require
from nami_jax.weights import WeightsError


@contextlib.contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """Gives a hidden folder beside `target` to write into, and renames it to `target` at the end.

    So what is killed or fails on the way leaves nothing by that name.

    Args:
        target: must not exist, or be an empty folder.
        size: bytes that will be written.

    Raises:
        ConfigError: there is something at `target`.
        WeightsError: the disk is full, or cannot be written.
    """
    target = target.absolute()
    require_new(target)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < size:
            raise WeightsError(f"{target}: {size / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free. Make room there.")
        yield partial
        partial.rename(target)
    except OSError as error:
        raise WeightsError(f"{target}: {error}. Nothing was kept. Make room there, or give another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(target: Path) -> None:
    """Raises `ConfigError` if there is something at `target`."""
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    require(empty, "to", str(target), "exists and is not empty", "Give a new folder, or delete this one first")
