"""A trace of some steps by jax's profiler, to be viewed with XProf (TensorBoard's profile tab) or Perfetto."""

from pathlib import Path
from typing import NamedTuple, Self

import jax
from tqdm import tqdm

from nami_jax.config import require
from nami_jax.parallel.processes import is_main


class Window(NamedTuple):
    """Steps first to last of a run, both included, counted from 1."""

    first: int
    last: int


def parse_window(text: str, steps: int) -> Window:
    """Reads a flag such as "10:15".

    Args:
        text: the flag.
        steps: of the run.

    Raises:
        ConfigError: it is not two steps of the run in order.
    """
    parts = text.split(":")
    require(
        len(parts) == 2 and all(part.isascii() and part.isdecimal() for part in parts),
        field="--profile",
        value=text,
        rule="must be the first and the last step to trace",
        remedy="Set e.g. --profile 10:15",
    )
    window = Window(*map(int, parts))
    require(
        1 <= window.first <= window.last <= steps,
        field="--profile",
        value=text,
        rule=f"must be steps of the run, 1 to {steps}, in order",
        remedy=f"Set e.g. --profile {max(1, steps - 5)}:{steps}",
    )
    return window


class Trace:
    """Traces the steps of a window as they run. Use as a context manager: leaving it ends a trace in progress."""

    def __init__(self, window: Window | None, folder: Path):
        """Prepares a trace of the first process in `folder`; of nothing without a window.

        The others begin and end with it, for the run waits for its devices then, but trace nothing.
        """
        self._left, self._folder = window, folder
        self._first: int | None = None  # step of a trace in progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not is_main():
            return
        if self._first is not None:
            jax.profiler.stop_trace()
        elif self._left is not None:
            tqdm.write(f"no trace: none of steps {self._left.first} to {self._left.last} ran this time")

    def begins(self, step: int) -> bool:
        """Returns whether to start before `step`: at the window's beginning, or later where the run was continued."""
        window = self._left
        return window is not None and self._first is None and window.first <= step <= window.last

    def start(self, step: int) -> None:
        """Starts with `step`; the devices should be idle."""
        if is_main():
            jax.profiler.start_trace(self._folder)
        self._first = step

    def ends(self, step: int) -> bool:
        """Returns whether to stop after `step`."""
        return self._first is not None and self._left is not None and step >= self._left.last

    def stop(self, step: int) -> None:
        """Writes the trace; the devices should be done with `step`."""
        if is_main():
            jax.profiler.stop_trace()
            tqdm.write(f"trace of steps {self._first} to {step} in {self._folder}")
        self._left = self._first = None
