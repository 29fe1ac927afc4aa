"""Compiled programs: how many a process keeps in memory, and where they are kept for the next process."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import jax

from nami_jax.parallel.compiler import compiler_options

IN_MEMORY = 32  # programs of one function: ten sizes of pictures by a model of three stages
OPTIONS = {
    "jax_compilation_cache_max_size": 2 * 2**30,  # bytes; beyond them jax removes what was unused the longest
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # small programs are many: together they take seconds
}
PATIENCE = 10  # seconds to wait for another process that uses the folder, as jax does
COMPILED = "/jax/core/compile/backend_compile_duration"  # jax's event for each program, compiled or read
READ = "/jax/compilation_cache/cache_retrieval_time_sec"  # for each that was read from disk


class BoundedJit:
    """A jitted function of (static, *arguments) that keeps the programs of the last shapes it was called with.

    `jax.jit` keeps a program for every shape as long as the function exists: some 60 memory maps and 4 MB each, until
    a process that serves requests of many shapes dies of Linux's limit of 65,530 maps.
    """

    def __init__(self, function: Callable[..., Any], kept: int = IN_MEMORY):
        """Takes the function, whose first argument is hashable and compiled in, and how many programs are kept."""
        functools.update_wrapper(self, function)
        self._function = function
        self._jitted = functools.lru_cache(kept)(self._jit)

    def __call__(self, static: Any, *arguments: Any) -> Any:
        """Calls the function, which compiles where its program is not there, or no longer."""
        return self.jitted(static, *arguments)(*arguments)

    def jitted(self, static: Any, *arguments: Any) -> Any:
        """Returns the jitted function of arguments of these shapes, arrays or ShapeDtypeStructs."""
        leaves, structure = jax.tree.flatten(arguments)
        return self._jitted(static, structure, *((leaf.shape, leaf.dtype) for leaf in leaves))

    def compile(self, static: Any, *arguments: Any) -> Any:
        """Compiles what a call with arguments of these shapes runs, and runs nothing; returns the result's shape."""
        compiled = self.jitted(static, *arguments).lower(*arguments).compile()
        # What is on one device only because it is the first is free to be moved, as a result would be.
        return jax.tree.map(
            lambda x, on: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=None if isinstance(on, jax.sharding.SingleDeviceSharding) else on
            ),
            compiled.out_info,
            compiled.output_shardings,
        )

    def __len__(self) -> int:
        """Returns how many programs are kept."""
        return self._jitted.cache_info().currsize

    def _jit(self, static: Any, *shapes: Any) -> Any:
        del shapes
        # Each time another function: jax frees a program once nothing refers to the function that it was made of.
        return jax.jit(functools.partial(self._function, static), compiler_options=compiler_options(jax.devices()[0]))


def keep_on_disk() -> None:
    """Makes jax keep what it compiles for later processes, in the user's cache folder, bounded and where it is safe.

    jax's own options decide: `JAX_ENABLE_COMPILATION_CACHE=false` turns it off, and a folder that the user has set
    (`JAX_COMPILATION_CACHE_DIR`) is used as jax alone would. A folder that cannot be used costs one line, no more.
    To be called by commands, after `processes.initialize`: it asks jax for its devices.
    """
    options: Any = jax.config
    if not options.jax_enable_compilation_cache or options.jax_compilation_cache_dir or not _is_safe():
        return
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is read from there is run
        _remove_unfinished(folder)
    except (OSError, RuntimeError) as error:
        print(f"note: compiled programs are not kept for the next time: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for option, value in OPTIONS.items():
        if option.upper() not in os.environ:
            jax.config.update(option, value)


def cache_folder() -> Path:
    """Returns where programs are kept: in `XDG_CACHE_HOME`, which must be absolute to count, or ~/.cache.

    Raises:
        RuntimeError: the user has no home.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "nami_jax" / "programs"


def _is_safe() -> bool:
    # On several CPU devices jax 0.10.2 hangs in programs from the cache. Of several processes only the first writes:
    # on hosts without a common home it would not compile where the others wait for its share of the autotuning.
    return jax.process_count() == 1 and (jax.default_backend() != "cpu" or jax.device_count() == 1)


def _remove_unfinished(folder: Path) -> None:
    """Removes entries that a killed process left: jax writes KEY-cache, then KEY-atime, and needs both to make room.

    Raises:
        OSError: the folder cannot be written, or is in use for too long.
    """
    with filelock.FileLock(folder / ".lockfile", timeout=PATIENCE):  # which jax takes for each entry
        for entry in folder.glob("*-cache"):
            if not entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").exists():
                entry.unlink()


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """Collects the seconds of each program that is compiled inside, in any thread, and not read from disk."""
    seconds, reading = [], set()

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        thread = threading.get_ident()
        if event == READ:
            reading.add(thread)  # the other event of this program follows
        elif event == COMPILED and thread in reading:
            reading.remove(thread)
        elif event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
