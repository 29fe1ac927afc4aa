"""Which rows of a batch a process reads."""

from typing import NamedTuple

import numpy as np

from nami_jax.config import require


class HostShard(NamedTuple):
    """A process's share of every batch: those of its equal, consecutive parts that the process's devices hold.

    Rows are the same samples whatever the number of processes and devices.
    """

    parts: tuple[int, ...] = (0,)
    count: int = 1  # parts of a whole batch

    def rows(self, size: int) -> np.ndarray:
        """Returns which of a whole batch's `size` rows these are, ascending."""
        each = size // self.count
        return np.concatenate([np.arange(part * each, (part + 1) * each) for part in self.parts])

    def require_even(self, field: str, sizes: tuple[int, ...]) -> None:
        """Raises `ConfigError` unless batches of `sizes`, set by `field`, can be shared evenly and are not empty."""
        require(
            all(b >= 1 and b % self.count == 0 for b in sizes),
            field=field,
            value=sizes,
            rule=f"{self.count} devices must share each batch evenly",
            remedy=f"Set multiples of {self.count}",
        )


WHOLE = HostShard()
