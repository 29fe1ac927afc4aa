"""Rate limits: how often someone may do something."""

import collections
import threading
import time
from collections.abc import Callable, Hashable

MOST = 10_000  # whose allowance is remembered


class Allowances:
    """A bucket of permissions for each of many: full at first, refilled steadily, by a clock that never jumps."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic):
        """Takes how many permissions are added in a second, how many there are at most, and a clock in seconds."""
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left: collections.OrderedDict[Hashable, tuple[float, float]] = collections.OrderedDict()
        self._turn = threading.Lock()

    def admit(self, who: Hashable) -> bool:
        """Takes one permission of someone, and returns whether there was one."""
        now = self._clock()
        with self._turn:
            left, since = self._left.pop(who, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_second)
            admitted = left >= 1
            self._left[who] = (left - admitted, now)
            if len(self._left) > MOST:
                self._left.popitem(last=False)
        return admitted
