"""A command's flags, defined within this process as they are when it is started."""

import contextlib
from collections.abc import Callable, Iterator

from absl import flags


@contextlib.contextmanager
def defined(define: Callable[[], None]) -> Iterator[None]:
    """Defines a command's flags, without those of any other command, and removes them again."""
    _forget()
    define()
    try:
        yield
    finally:
        _forget()
        flags.FLAGS.unparse_flags()


def _forget() -> None:
    modules = flags.FLAGS.flags_by_module_dict()
    ours = [flag.name for module, these in modules.items() if module.startswith("nami_jax") for flag in these]
    for name in {*ours, *(name for name in flags.FLAGS if name.startswith("config."))}:
        delattr(flags.FLAGS, name)
