"""What holds for every test: eight CPU devices and no silent broadcasting. Warnings are errors by pyproject.toml.

All of it is said through the environment before jax is first imported, so that processes started by a test inherit it.
"""

import os
import sys

import pytest

from tests.support import xla

os.environ["XLA_FLAGS"] = xla.flags(devices=8)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["TQDM_MININTERVAL"] = "0"  # in a log, bars tell each step: some tests wait for one
# jax 0.10.2 hangs when it runs a program from the cache on several forced CPU devices.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# The files that take a minute and more, the longest first: begun late, one would keep a single core busy at the end.
LONGEST = (
    "faults/test_sigkill.py", "runs/test_hosts.py", "faults/test_disk.py", "faults/test_signals.py",
    "faults/test_two_hosts.py", "parallel/test_activations.py", "runs/test_finetune.py", "sampling/test_pipeline.py",
    "test_train.py", "test_notebooks.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; each keeps its own order."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0].removeprefix("tests/")
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    # Each compiled function holds three memory maps. Over the whole suite they exceed Linux's 65,530 per process
    # (vm.max_map_count), and the compiler crashes.
    yield
    if "jax" in sys.modules:  # the launchers' tests are run without it
        sys.modules["jax"].clear_caches()
