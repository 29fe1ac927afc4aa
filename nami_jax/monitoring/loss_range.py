"""The range in which a run's loss has been, and whether it has left it. It is kept in the run's checkpoints."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

MEMORY = 100  # losses that the range goes by, about
SPREADS = 4.0  # usual distances from the level that a loss may be above it, beside `max_rise`
TINY = 1e-30  # whose logarithm stands for that of 0


@dataclasses.dataclass
class LossRange:
    """The level of a loss and how far it usually is from it, both of its logarithm.

    A loss is out of range if it is more than `max_rise` times the level and beyond its usual scatter, or not finite. A
    falling loss never is. Losses out of range do not move the range.

    Attributes:
        max_rise: above 1; None: only what is not finite is out of range.
        count: losses in range so far.
        level: mean of the logarithms of about the last `MEMORY` of them.
        spread: mean distance of these from the level. Of few losses too little is known: it begins at 1.
    """

    max_rise: float | None = None
    count: int = 0
    level: float = 0.0
    spread: float = 1.0

    @classmethod
    def continued(cls, max_rise: float | None, past: Mapping[str, Any] | None) -> Self:
        """Returns the range that `state` described; that of a new run for None."""
        return cls(max_rise, **(past or {}))

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it, for JSON."""
        return {"count": self.count, "level": self.level, "spread": self.spread}

    @property
    def limit(self) -> float:
        """The largest loss in range; of a first loss nothing is known."""
        if self.max_rise is None or self.count == 0:
            return math.inf
        return math.exp(min(self.level + math.log(self.max_rise) + SPREADS * self.spread, 700.0))

    def holds(self, loss: float) -> bool:
        """Returns whether a loss is finite and in range."""
        return math.isfinite(loss) and loss <= self.limit

    def add(self, loss: float) -> None:
        """Takes in a loss that is in range."""
        value = math.log(max(loss, TINY))
        self.count += 1
        distance = abs(value - self.level) if self.count > 1 else 0.0
        self.level += (value - self.level) * max(1 / self.count, 1 / MEMORY)
        self.spread += (distance - self.spread) * max(1 / (self.count + 1), 1 / MEMORY)
