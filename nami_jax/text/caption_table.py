"""Captions to text states on disk: each is encoded once, so that training never runs the encoder."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from nami_jax.config import ConfigError, TextConfig
from nami_jax.files.disk import is_full, written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextEncoder, TextStates, load_text_encoder

FIELDS = ("embeds", "pooled", "checksum")  # of a row
CAPTIONS_AT_ONCE = 256  # encoded between two writes and two ticks of the progress bar


class TextTable:
    """The states of a fixed set of captions, memory-mapped from disk. Made by `encode_captions`."""

    def __init__(self, path: Path, captions: Sequence[str]):
        """Opens the file at `path`, whose rows are those of `captions`.

        Raises:
            ValueError: the file is damaged or has another number of rows.
            FileNotFoundError: there is no such file.
        """
        self._path, self._captions = path, captions
        self._rows = np.load(path, mmap_mode="r")  # raises ValueError if shorter than its header says
        if self._rows.shape != (len(captions),):
            raise ValueError(f"{path} has shape {self._rows.shape}, not one row for each of {len(captions)} captions.")
        self._index = {caption: row for row, caption in enumerate(captions)}

    def require_whole(self) -> None:
        """Compares every row with the checksum that it was written with.

        Raises:
            ValueError: one has another, or earlier versions wrote none.
        """
        if self._rows.dtype.names != FIELDS:
            raise ValueError(f"{self._path} has {self._rows.dtype.names}, not {FIELDS}: of an earlier version.")
        for row, caption in zip(self._rows, self._captions, strict=True):
            if row["checksum"] != _checksum(caption, row["embeds"], row["pooled"]):
                raise ValueError(f"{self._path}: the states of {caption!r} are not what was written.")

    def __reduce__(self) -> tuple[type["TextTable"], tuple[Path, Sequence[str]]]:
        # Data loader workers open the file themselves: pickling the mapped array would copy all of it.
        return TextTable, (self._path, self._captions)

    def lookup(self, captions: Sequence[str]) -> TextStates:
        """Returns the states of B captions: embeds (B, T, D) and pooled (B, P), float32.

        Raises:
            LookupError: a caption was not among those encoded.
        """
        unknown = [caption for caption in captions if caption not in self._index]
        if unknown:
            raise LookupError(
                f"caption {unknown[0]!r} is not among the {len(self._index)} encoded ones. "
                "Pass encode_captions every caption that the data set can draw."
            )
        rows = self._rows[[self._index[caption] for caption in captions]]
        return TextStates(rows["embeds"].astype(np.float32), rows["pooled"].astype(np.float32))

    @property
    def empty(self) -> TextStates:
        """The states of the empty caption, B = 1: the unconditional text of classifier-free guidance."""
        return self.lookup([""])


def encode_captions(
    cfg: TextConfig,
    captions: Sequence[str],
    folder: Path,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> TextTable:
    """Encodes every distinct caption once, and the empty one, into a file that later calls reuse.

    The file is named by a hash of all it depends on and appears under that name only once it is complete. So a changed
    setting or caption makes a new file, an interrupted run leaves nothing that is ever read, and processes that encode
    the same captions at once replace each other's equal files. A valid file is used without loading the encoder.

    Args:
        cfg: the encoder, its window and whether padding is zeroed.
        captions: in any order, with repeats.
        folder: where the data set is; created if needed.
        dtype: of the encoder's parameters and computation.

    Returns:
        The table. Embeds are stored in float16 (half the size; off by 1/2048 of a value at most, less than bfloat16
        computation adds), the pooled vectors in float32.

    Raises:
        ConfigError: the states do not fit on the disk.
    """
    # By length, so that texts encoded together fill windows of one size.
    captions = sorted({"", *captions}, key=lambda caption: (len(caption), caption))
    path = folder / f"text-{table_key(cfg, captions, dtype)}.npy"
    try:
        table = TextTable(path, captions)
        table.require_whole()
        return table
    except FileNotFoundError:
        pass
    except (ValueError, EOFError) as error:
        logging.warning("Encoding the captions again: the text states on disk are damaged (%s).", error)
    make_folder(folder, field="data.data_dir")
    with written_whole(path) as unfinished:
        write_states(load_text_encoder(cfg, dtype=dtype), captions, unfinished)
    return TextTable(path, captions)


def table_key(cfg: TextConfig, captions: Sequence[str], dtype: jax.typing.DTypeLike = jnp.float32) -> str:
    """Returns a name for the states of these captions in this order: it changes with anything they depend on."""
    depends_on = [encoder_id(cfg), jnp.dtype(dtype).name, list(captions)]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:20]


def write_states(encoder: TextEncoder, captions: Sequence[str], path: Path) -> None:
    """Writes one record (embeds (T, D) float16, pooled (P,) float32, a checksum) per caption to a .npy file."""
    record = np.dtype(
        [
            ("embeds", np.float16, (encoder.max_length, encoder.embed_dim)),
            ("pooled", np.float32, (encoder.pooled_dim,)),
            ("checksum", np.uint32),
        ]
    )
    rows = _new_rows(path, record, len(captions))
    with progress_bar(total=len(captions), desc="encoding captions", unit="caption") as progress:
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            some = slice(start, start + CAPTIONS_AT_ONCE)
            rows["embeds"][some], rows["pooled"][some] = encoder(captions[some])
            for row, caption in zip(rows[some], captions[some], strict=True):
                row["checksum"] = _checksum(caption, row["embeds"], row["pooled"])
            progress.update(len(captions[some]))
    rows.flush()


def _checksum(caption: str, embeds: np.ndarray, pooled: np.ndarray) -> int:
    """Returns a number below 2^32 that changes with the caption and with any value of its states."""
    return zlib.crc32(pooled.tobytes(), zlib.crc32(embeds.tobytes(), zlib.crc32(caption.encode())))


def _new_rows(path: Path, record: np.dtype, count: int) -> np.memmap:
    """Makes a memory-mapped .npy file, whose space on the disk is its own from the start.

    Without that a disk that fills up later ends the process by a signal (SIGBUS) and no message.
    """
    try:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=record, shape=(count,))
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if not (is_full(error) or error.errno == errno.EFBIG):  # the latter: larger than a file may be there
            raise
        size = count * record.itemsize / 1e9
        raise ConfigError(
            f"{path.parent}: {size:.2f} GB of text states do not fit: {error.strerror}. Free some space there, or "
            "set another data.data_dir."
        ) from error
    return rows
