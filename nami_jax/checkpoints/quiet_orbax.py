"""Keeps what fails in Orbax to the one exception that it raises, which `checkpoint` explains.

Orbax reads or writes all arrays at once in an event loop that it closes at the first failure; the others, still under
way, would then each print a traceback into whatever comes next. And each of its threads logs what it raises.
"""

import asyncio
import logging
from typing import Self

# What Orbax and TensorStore raise for files that are cut short or have been overwritten.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes when everything in it has ended."""

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


class Reading:
    """Keeps what was wrong with files that could not be read inside, in a line; None if they could."""

    error: str | None = None

    def __enter__(self) -> Self:
        self._policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(_PatientPolicy())
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: object) -> bool:
        asyncio.set_event_loop_policy(self._policy)
        # Orbax raises Exception itself, no subclass, from what TensorStore says of an array's data.
        if problem is None or not (kind is Exception or isinstance(problem, UNREADABLE)):
            return False
        self.error = brief(problem)
        return True


def brief(problem: BaseException) -> str:
    """Returns what TensorStore or the system says, without the description of the array that follows it."""
    text, _, _ = str(problem.__cause__ or problem).partition(" [tensorstore_spec")
    return f"{type(problem).__name__}: {text.strip()[:500]}"


def mute_orbax() -> None:
    """Drops what Orbax logs and its threads print, in the whole process: for commands, which report what it raises."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.set_event_loop_policy(_PatientPolicy())
