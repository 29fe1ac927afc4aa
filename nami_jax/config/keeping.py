"""Which checkpoints a run keeps, whatever it trains."""

from typing import Protocol

from nami_jax.config.settings import require

KEEP_NEWEST = "how many of the newest to keep, at least 2: the newest is proved good by the steps after it"
KEEP_BEST = "how many to keep besides, of the least validation loss, among those of steps that were validated"
KEEP_EVERY = "keep besides those whose step is a multiple of this; None: none"
MAX_LOSS_RISE = (
    "a loss more than this many times its level so far, and beyond its usual scatter, is out of range: the state is "
    "not saved; None: whatever is finite is saved"
)


def require_kept_steps(keep_every: int | None, checkpoint_every: int) -> None:
    """Checks that the steps to be kept are saved at all."""
    require(
        keep_every is None or keep_every % checkpoint_every == 0,
        field="train.keep_every",
        value=keep_every,
        rule=f"must be a multiple of train.checkpoint_every = {checkpoint_every}",
        remedy=f"Set {-(-(keep_every or 1) // checkpoint_every) * checkpoint_every}",
    )


class Kept(Protocol):
    """The fields of a run's section `train` that say which checkpoints are kept."""

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def keep_checkpoints(self) -> int: ...  # noqa: D102
    @property
    def keep_best(self) -> int: ...  # noqa: D102
    @property
    def keep_every(self) -> int | None: ...  # noqa: D102


def most_kept(train: Kept) -> int:
    """Returns how many checkpoints a run has at most, with the one that its last continuation was begun from."""
    regular = 0 if train.keep_every is None else train.steps // train.keep_every
    return max(train.keep_checkpoints, 2) + train.keep_best + regular + 1
