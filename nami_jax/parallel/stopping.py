"""Ends a run between two steps, its state saved, when the machine is preempted or a person stops it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # from a scheduler, from a keyboard


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and has saved its state if that is fit. The message says after which step."""


class _Asked(BaseException):
    """Leaves what may be interrupted."""


class Stopping:
    """Whether a run is asked to stop. Use as a context manager around all that must not be interrupted: also the saves.

    With one process a signal is noted until the step under way is done. With several, they must all stop after the same
    step: SIGTERM goes to jax's preemption service, which finds one that none of them has passed. It counts from the
    first call of each process, so it is asked by the count of steps since then, and by nobody else.

    Attributes:
        after: the step after which `steps` ended early; None if it did not.
        saved: whether the state after it was fit to be saved.
    """

    def __init__(self) -> None:
        self.after: int | None = None
        self.saved = True
        self._asked = False
        self._interruptible = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def steps(self, first: int, stop: int) -> Iterator[int]:
        """Yields first, ..., stop - 1; fewer if a signal comes, for which it listens from here on."""
        self._listen()
        for step in range(first, stop):
            yield step
            if step + 1 < stop and self._due(step - first + 1):
                self.after = step
                return

    def interruptible(self, show: Callable[..., None], *arguments: Any) -> None:
        """Calls `show`, which changes no state of the network; with one process, a signal interrupts it for good."""
        try:
            try:
                self._interruptible = True
                if not self._asked:
                    show(*arguments)
            finally:
                self._interruptible = False
        except _Asked:
            pass

    def require_going(self, last: int) -> None:
        """Raises `Stopped` if `steps` ended early. `last` is the run's last step."""
        if self.after is not None:
            state = "is saved" if self.saved else "is not saved, for its loss was out of range"
            raise Stopped(f"Stopped after step {self.after} of {last}, which {state}. The same command continues.")

    def _due(self, count: int) -> bool:
        return self._asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(count)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread set handlers
        handlers: dict[signal.Signals, Any] = dict.fromkeys(SIGNALS, self._note)
        if jax.process_count() > 1:
            handlers = {signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}
        self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # who asks twice does not want to wait
        if not self._asked:
            self._asked = True
            # Not by print: the signal may have come in the middle of one.
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step, with its state saved\n".encode())
            if self._interruptible:
                raise _Asked


def leave_at_once(said: str = "nothing to save. The same command continues.", status: int = 0) -> None:
    """Makes SIGTERM and SIGINT end the program wherever no `Stopping` has a state to save.

    For commands, since it replaces this process's handlers. Compilations in other threads could not be interrupted
    otherwise.

    Args:
        said: what to print after the signal's name.
        status: of the process.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, f"\n{signal.Signals(number).name}: {said}\n".encode())
        os._exit(status)

    for number in SIGNALS:
        signal.signal(number, leave)
