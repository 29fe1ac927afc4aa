"""Rows of numbers from another process: so that a program which must not load jax can use a network that needs it.

The other process reads a JSON list of texts (captions, paths, ...) a line on its standard input, and answers each list
with a row of float32 for each text, in their order, as raw bytes. It first says how long a row is, in 4 bytes. Whoever
asks chooses how many texts are on the way at once, and so how much memory both take.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, NoReturn, Self

import numpy as np

from nami_jax.config import ConfigError

SIZE = struct.Struct("<I")


def answer_rows(encode: Callable[[list[str]], np.ndarray], width: int) -> None:
    """Answers each list of texts on standard input, until it ends.

    Args:
        encode: n texts -> (n, width) float32. What it prints goes to standard error.
        width: numbers in a row.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answers.write(SIZE.pack(width))
        answers.flush()
        for line in sys.stdin:
            answers.write(np.ascontiguousarray(encode(json.loads(line)), "<f4").tobytes())
            answers.flush()


class RowProcess:
    """A process of `answer_rows`, started at once and ended with the `with` block.

    Attributes:
        width: numbers in a row.
    """

    def __init__(self, module: str):
        """Starts it.

        Args:
            module: whose `main()` calls `answer_rows`.

        Raises:
            ConfigError: it ended before it was ready; it has said why on standard error.
        """
        self._module = module
        code = f"import {module}; {module}.main()"
        command = [sys.executable, "-c", code]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._texts: IO[bytes] = self._process.stdin
        self._rows: IO[bytes] = self._process.stdout
        (self.width,) = SIZE.unpack(self._read(SIZE.size))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns (n, width) float32 for n texts; raises `ConfigError` if the process has ended."""
        try:
            self._texts.write(json.dumps(list(texts)).encode() + b"\n")
            self._texts.flush()
        except BrokenPipeError:
            self._ended()
        answer = self._read(len(texts) * self.width * 4)
        return np.frombuffer(answer, "<f4").reshape(len(texts), self.width)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process and waits for it."""
        self._process.kill()
        self._close()

    def _read(self, size: int) -> bytes:
        answer = self._rows.read(size)
        if len(answer) < size:
            self._ended()
        return answer

    def _close(self) -> int:
        for pipe in (self._texts, self._rows):
            with contextlib.suppress(BrokenPipeError):  # what it has not read is flushed once more
                pipe.close()
        return self._process.wait()

    def _ended(self) -> NoReturn:
        status = self._close()
        raise ConfigError(f"{self._module} ended with status {status}: see what it printed above, and correct that.")
