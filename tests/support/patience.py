"""Time limits of tests, in seconds of a quiet machine: they last longer on one that is slower or that others share.

A limit finds what hangs, and holds what a user waits for. On a machine of which a test has a tenth, both take ten times
as long, and neither is a fault.
"""

import subprocess
import time
from collections.abc import Sequence
from typing import Any

WORK = 2_000_000  # additions, which take QUIET seconds on a quiet core of the machine by which the limits were set
QUIET = 0.15
PAUSE = 5.0  # seconds between two looks at how slow the machine is


def slowness() -> float:
    """Returns how many times as long the processor takes now as a quiet one, at least 1."""
    began, total = time.perf_counter(), 0
    for number in range(WORK):
        total += number
    return max(1.0, (time.perf_counter() - began) / QUIET)


class Stopwatch:
    """Counts a quiet machine's seconds: those of the clock, divided by how slow the machine is meanwhile."""

    def __init__(self):
        self.seconds = 0.0
        self._looked = time.monotonic()

    def look(self) -> float:
        """Returns the seconds since it was made; those since the last look are held to be as slow as those of now."""
        now, slow = time.monotonic(), slowness()
        self.seconds += (now - self._looked) / slow
        self._looked = now
        return self.seconds


def finish(process: subprocess.Popen, seconds: float) -> tuple[str, str]:
    """Returns what a process still prints to its two pipes, once it has ended; kills one that does not.

    Args:
        process: whose output is text.
        seconds: of a quiet machine that it may take.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    watch = Stopwatch()
    while True:
        try:
            return process.communicate(timeout=PAUSE)
        except subprocess.TimeoutExpired:
            if watch.look() > seconds:
                process.kill()
                raise


def run(command: Sequence[Any], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and returns its output as text; kills it after so many seconds of a quiet machine."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        out, err = finish(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
