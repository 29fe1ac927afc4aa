"""Keeps what fails in Orbax to the one exception that it raises, which `checkpoint` explains.

Orbax reads or writes all arrays at once in an event loop that it closes at the first failure; the others, still under
way, would then each print a traceback into whatever comes next. And each of its threads logs what it raises.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes when everything in it has ended."""

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


@contextlib.contextmanager
def patient_loops() -> Iterator[None]:
    """Lets event loops that are made inside wait, before they close, for whatever a failure left running in them."""
    policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_PatientPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(policy)


def mute_orbax() -> None:
    """Drops what Orbax logs and its threads print, in the whole process: for commands, which report what it raises."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.set_event_loop_policy(_PatientPolicy())
