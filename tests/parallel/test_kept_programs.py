import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.parallel.kept_programs import BoundedJit, compilations
from tests.support import patience, xla
from tests.support.paths import ROOT


@pytest.fixture
def summed():
    return BoundedJit(lambda factor, x, pair: factor * x.sum() + pair[0], kept=3)


def maps() -> int:
    return len(pathlib.Path("/proc/self/maps").read_text().splitlines())


def test_a_program_is_compiled_once_for_its_shapes_and_its_static_argument(summed):
    with compilations() as compiled:
        results = [
            float(summed(factor, np.full(4, x, np.float32), (np.float32(x), None)))
            for factor in (2, 3)
            for x in (0.0, 1.0)
        ]
    assert results == [0, 9, 0, 13]
    assert len(compiled) == len(summed) == 2


def test_the_program_unused_for_the_longest_is_forgotten(summed):
    def compiles(size: int) -> bool:
        with compilations() as compiled:
            summed(1, np.ones(size, np.float32), (np.float32(0), None))
        return bool(compiled)

    assert [compiles(size) for size in (1, 2, 3, 1, 4)] == [True, True, True, False, True]
    assert len(summed) == 3
    assert [compiles(size) for size in (1, 3, 4, 2)] == [False, False, False, True]


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="memory maps are Linux's to show")
def test_what_is_forgotten_is_freed(summed):
    found = []
    for size in range(1, 61):
        summed(1, np.ones(size, np.float32), (np.float32(0), None))
        found.append(maps())
    # Each program has some three maps: sixty that were kept would have added 180.
    assert found[-1] - found[9] < 40


def test_an_ahead_of_time_compilation_is_the_one_that_a_call_uses(summed):
    arguments = jax.ShapeDtypeStruct((7,), jnp.float32), (np.float32(0), None)
    with compilations() as compiled:
        summed.jitted(1, *arguments).lower(*arguments).compile()
        assert len(compiled) == 1
        assert float(summed(1, np.ones(7, np.float32), (np.float32(0), None))) == 7
    assert len(compiled) == 1


PROGRAM = """
import jax, sys
from nami_jax.parallel.kept_programs import compilations, keep_on_disk

keep_on_disk()
with compilations() as compiled:
    jax.jit(lambda x: x * 2 + 1)(jax.numpy.float32(1)).block_until_ready()
print(len(compiled), jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)
"""


def compile_in_a_process(devices: int = 1, **env: str) -> tuple[int, str, str]:
    """Returns how many programs a new process compiled, where it keeps them, and what it said on standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env = clean | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla.flags(devices), "PYTHONPATH": str(ROOT)} | env
    run = patience.run([sys.executable, "-c", PROGRAM], 120, env=env)
    assert run.returncode == 0, run.stderr
    count, where = run.stdout.split(maxsplit=1)
    return int(count), where.strip(), run.stderr


def test_a_second_process_compiles_nothing_unless_it_is_told_to(tmp_path):
    where = f"{tmp_path / 'nami_jax' / 'programs'} {2 * 2**30}"
    first, second = (compile_in_a_process(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert first == (first[0], where, "")
    assert first[0] > 0
    assert second == (0, where, "")
    off = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert off == (first[0], "None -1", "")


def test_several_cpu_devices_keep_nothing(tmp_path):
    count, where, _ = compile_in_a_process(devices=2, XDG_CACHE_HOME=str(tmp_path))
    assert count > 0
    assert where == "None -1"
    assert not list(tmp_path.iterdir())


def test_a_folder_and_options_of_the_users_own_are_left_to_jax(tmp_path):
    own, cache = str(tmp_path / "own"), str(tmp_path / "cache")
    assert compile_in_a_process(JAX_COMPILATION_CACHE_DIR=own, XDG_CACHE_HOME=cache)[1] == f"{tmp_path / 'own'} -1"
    assert not (tmp_path / "cache").exists()
    where = compile_in_a_process(XDG_CACHE_HOME=cache, JAX_COMPILATION_CACHE_MAX_SIZE="1000000")[1]
    assert where.endswith("programs 1000000")


def test_a_folder_that_cannot_be_used_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    count, where, said = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert count > 0
    assert where == "None -1"
    assert said.startswith("note: compiled programs are not kept for the next time: ")
    assert "file" in said
    assert said.count("\n") == 1


def test_what_a_killed_process_left_is_removed_and_compiled_again(tmp_path):
    compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))
    entries = sorted((tmp_path / "nami_jax" / "programs").glob("*-cache"))
    for entry in entries:  # killed between the program and the time of its last use, which jax writes behind it
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").unlink()
    count, _, said = compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))
    assert (count > 0, said) == (True, "")
    assert compile_in_a_process(XDG_CACHE_HOME=str(tmp_path))[0] == 0
