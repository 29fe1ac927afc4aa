"""What all processes of a run must decide alike: one that fails alone would leave the others waiting for it."""

import jax
import numpy as np
from jax.experimental import multihost_utils

LENGTH = 2048  # bytes of a message; longer ones are cut


def first_error(error: str | None) -> str | None:
    """Returns the message of the first process that has one, the same on every process; waits until all have called.

    Args:
        error: what went wrong on this process, None if nothing did.
    """
    if jax.process_count() == 1:
        return error
    own = np.zeros(LENGTH, np.uint8)
    text = np.frombuffer((error or "").encode()[:LENGTH], np.uint8)
    own[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(own))  # (processes, LENGTH)
    texts = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
    return next((text for text in texts if text), None)
