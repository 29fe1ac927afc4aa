"""Captions of any training set, one by one: what is checked against the prompts, or stands beside them."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from nami_jax.config import ConfigError, require

KINDS = (".txt", ".jsonl", ".parquet")
KEYS = ("caption", "text", "prompt", "en", "zh")  # of those that are there, all are read
REMEDY = f"Name a file that ends in {', '.join(KINDS)}, or a folder of such files"
MOST_LETTERS = 100_000  # of a line: a file without line ends must not fill the memory
ROWS = 4096  # of a Parquet file at once


class Caption(NamedTuple):
    """One caption and where it stands."""

    text: str
    file: str
    line: int  # or row, from 1


def read_captions(path: Path, keys: tuple[str, ...] = KEYS) -> Iterator[Caption]:
    """Returns the captions of a file or folder, which are read as they are asked for; empty ones are left out.

    Args:
        path: a text file with one caption a line, JSON Lines of texts or objects, a Parquet file, or a folder with any
            of these at any depth, so also with a `.txt` beside each image.
        keys: fields or columns that hold captions.

    Raises:
        ConfigError: it is missing, holds no such file, or a file is damaged or has none of the keys.
    """
    require(path.exists(), field="captions", value=str(path), rule="is not there", remedy=REMEDY)
    files = sorted(file for file in path.rglob("*") if file.suffix in KINDS) if path.is_dir() else [path]
    wrong = [file for file in files if file.suffix not in KINDS]
    require(bool(files) and not wrong, field="captions", value=str(path), rule="holds nothing to read", remedy=REMEDY)
    return (Caption(text, str(file), line) for file in files for line, text in _texts(file, keys) if text.strip())


def in_chunks(captions: Iterable[Caption], size: int) -> Iterator[list[Caption]]:
    """Yields lists of `size` captions, the last one as long as it is."""
    rest = iter(captions)
    while some := list(itertools.islice(rest, size)):
        yield some


def _texts(file: Path, keys: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    try:
        if file.suffix == ".parquet":
            yield from _rows(file, keys)
        elif file.suffix == ".txt":
            yield from ((number, line.rstrip("\r\n")) for number, line in _lines(file))
        else:
            for number, line in _lines(file):
                if line.strip():
                    yield from ((number, text) for text in _fields(line, f"{file} line {number}", keys))
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{file}: cannot be read: {error}. {REMEDY}.") from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for number in itertools.count(1):
            line = lines.readline(MOST_LETTERS + 1)
            if not line:
                return
            require(
                len(line) <= MOST_LETTERS,
                field=f"{file} line {number}",
                value=line[:40],
                rule=f"has more than {MOST_LETTERS} letters",
                remedy="Put one caption on a line",
            )
            yield number, line


def _fields(line: str, place: str, keys: tuple[str, ...]) -> list[str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is damaged: {error}. Write one JSON text or object a line.") from error
    if isinstance(value, str):
        return [value]
    found = [value[key] for key in keys if key in value] if isinstance(value, dict) else []
    require(bool(found), field=place, value=line[:80], rule=f"has none of {', '.join(keys)}", remedy="Set --keys")
    texts = itertools.chain.from_iterable(text if isinstance(text, list) else [text] for text in found)
    return [text for text in texts if isinstance(text, str)]


def _rows(file: Path, keys: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    with contextlib.closing(pyarrow.parquet.ParquetFile(file)) as table:
        columns = [key for key in keys if key in table.schema_arrow.names]
        names = ", ".join(table.schema_arrow.names)
        rule = f"has none of the columns {', '.join(keys)}, but {names}"
        require(bool(columns), field="captions", value=str(file), rule=rule, remedy="Set --keys")
        numbers = itertools.count(1)
        for batch in table.iter_batches(ROWS, columns=columns):
            for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                number = next(numbers)
                for text in row:
                    texts = text if isinstance(text, list) else [text]
                    yield from ((number, part) for part in texts if isinstance(part, str))
