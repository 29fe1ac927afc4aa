"""Progress bars: on a terminal as tqdm draws them; in a log, where nothing can be drawn over, a line now and then."""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # between two lines of a log; the environment's TQDM_MININTERVAL goes first, as tqdm has it
LINE = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines(io.TextIOBase):
    """Standard error, to which a bar is written as lines."""

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        return len(text)


def progress_bar(over: Iterable | None = None, **settings: Any) -> tqdm:
    """Returns a progress bar.

    Args:
        over: what to iterate over, if the bar is not updated by hand.
        **settings: tqdm's own: total, desc, unit, initial, disable, ...
    """
    if not sys.stderr.isatty():
        seconds = float(os.environ.get("TQDM_MININTERVAL", SECONDS))
        settings |= {"file": _Lines(), "bar_format": LINE, "mininterval": seconds, "miniters": 1}
    return tqdm(over, **settings)
