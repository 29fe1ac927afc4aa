"""What can go wrong in a preparation: a single record, which is left out and listed, or all of it."""

from typing import NamedTuple


class PreparationError(RuntimeError):
    """The preparation cannot go on. The message says what to do; what is done so far is kept."""


class RejectedError(Exception):
    """A record that cannot be used.

    Attributes:
        reason: one of few, which the summary counts.
        detail: what exactly, for the list of rejects.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason, self.detail = reason, detail


class Reject(NamedTuple):
    """An entry of the list of rejects."""

    id: str
    reason: str
    detail: str
