"""A command's flags, defined within this process as they are when it is started."""

import contextlib
from collections.abc import Callable, Iterator

from absl import flags


@contextlib.contextmanager
def defined(define: Callable[[], None]) -> Iterator[None]:
    """Defines a command's flags and removes them again."""
    before = set(flags.FLAGS)
    define()
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
