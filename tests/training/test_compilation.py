import dataclasses
import os
import sys
import threading

import jax
import numpy as np
import pytest

from nami_jax.config import AutoencoderConfig, ConfigError
from nami_jax.data.loader import order_steps
from nami_jax.training.compilation import (
    CompilingAhead,
    Program,
    first_due,
    first_steps,
    phase_shapes,
    step_shapes,
)
from tests.support import patience
from tests.support.paths import ROOT
from tests.support.sizes import make_config

TWO_PHASES = {"stage_batches": ((8, 8, 8), (8, 16, 8)), "phase_starts": (0.0, 0.5), "phase_learning_rates": (1e-3,) * 2}


def latent_config():
    cfg = make_config(train=TWO_PHASES)
    data = dataclasses.replace(cfg.data, side=64, prepared="somewhere", buckets=((64, 64), (32, 128)))
    return dataclasses.replace(cfg, data=data, autoencoder=AutoencoderConfig("vae", downscale=4))


def test_shapes_are_buckets_times_phases_and_each_holds_every_stage():
    shapes = step_shapes(latent_config())
    assert len(shapes) == 4
    assert shapes[0] == ((8, 4, 4, 3), (8, 8, 8, 3), (8, 16, 16, 3))
    assert shapes[3] == ((8, 2, 8, 3), (16, 4, 16, 3), (8, 8, 32, 3))


def test_shapes_come_with_the_first_step_that_needs_each():
    cfg = latent_config()
    firsts = first_steps(cfg, [(16, 16), (8, 32)], [30, 10], range(1, 13))
    sources = order_steps(cfg, [30, 10]).sources
    for source, size in enumerate([(16, 16), (8, 32)]):
        for phase, begins in enumerate([0, 6]):
            (at,) = np.nonzero(sources[begins : begins + 6] == source)
            found = firsts.get(phase_shapes(cfg, phase, *size))
            assert found == (begins + int(at[0]) + 1 if len(at) else None)
    late = first_steps(cfg, [(16, 16), (8, 32)], [30, 10], range(7, 13))
    assert late == {shapes: step for shapes, step in firsts.items() if step > 6}
    assert first_steps(cfg, [(16, 16), (8, 32)], [30, 10], range(13, 13)) == {}
    assert set(first_steps(cfg, [(16, 16)], [30], range(1, 3))) == {phase_shapes(cfg, 0, 16, 16)}


def test_what_is_due_first():
    assert [first_due(range(start, 13), 5) for start in (1, 5, 6, 11)] == [5, 5, 10, 12]


def program(step, compile_=lambda: None, name="a thing"):
    return Program(step, name, "train.batch", compile_)


def test_programs_compile_in_the_order_of_need_while_the_caller_goes_on():
    order, gates = [], {5: threading.Event(), 9: threading.Event()}

    def late(step):
        gates[step].wait(30)
        order.append(step)

    programs = [program(9, lambda: late(9)), program(1, lambda: order.append(1)), program(5, lambda: late(5))]
    with CompilingAhead(programs) as ahead:
        assert order[0] == 1
        assert ahead.lacks(5)
        gates[5].set()
        ahead.wait(5)
        assert sorted(order) == [1, 5]
        assert not ahead.lacks(8)
        assert ahead.lacks(9)
        gates[9].set()
        ahead.wait(9)
        assert order[-1] == 9


def test_what_is_not_begun_at_the_end_is_given_up_and_what_is_is_not_waited_for():
    gate, begun, compiled = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        gate.wait(30)

    many = [program(step, lambda: compiled.append(1)) for step in range(1000, 2000)]
    with CompilingAhead([program(0), *(program(1, slow) for _ in range(os.cpu_count() or 1)), *many]):
        begun.wait(30)
    gate.set()
    assert not compiled


def test_too_little_memory_is_an_error_of_the_config_wherever_it_is_met():
    def fails(message):
        def compile_():
            raise jax.errors.JaxRuntimeError(message)

        return compile_

    full = fails("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20G of 15G.\nlong list")
    told = (
        r"train\.batch: the devices' memory is not enough for a thing: RESOURCE_EXHAUSTED: .* 15G\. Lower train\.batch;"
    )
    with pytest.raises(ConfigError, match=told), CompilingAhead([program(1, full)]):
        pass
    with pytest.raises(ConfigError, match=told), CompilingAhead([program(1), program(2, full)]) as ahead:
        ahead.wait(2)
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        CompilingAhead([program(1, fails("INTERNAL: x"))]),
    ):
        pass


LEAVING = """
import sys, time
from nami_jax.training.compilation import CompilingAhead, Program, not_waiting_for_programs

with not_waiting_for_programs():
    with CompilingAhead([Program(0, "one", "", lambda: None), Program(1, "another", "", lambda: time.sleep(2000))]):
        {end}
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("print('stopped')", 0, "stopped"),
        ("raise SystemExit('error: no')", 1, "error: no"),
        ("sys.exit(3)", 3, ""),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
    ],
)
def test_a_command_ends_with_its_status_while_a_program_still_compiles(end, status, said):
    command = [sys.executable, "-c", LEAVING.format(end=end)]
    run = patience.run(command, 60, cwd=ROOT)
    assert run.returncode == status, run.stderr
    assert said in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("end", "status"), [("print('stopped')", 0), ("raise SystemExit('error: no')", 1), ("sys.exit(3)", 3)]
)
def test_a_program_that_is_done_while_the_command_ends_does_not_change_its_status(end, status):
    answers = """
from nami_jax.training import compilation
answers = iter([True, False])
compilation._leaves = lambda: next(answers)
"""
    code = LEAVING.format(end=end).replace("\nwith", answers + "\nwith", 1)
    run = patience.run([sys.executable, "-c", code], 60, cwd=ROOT)
    assert run.returncode == status, run.stderr
