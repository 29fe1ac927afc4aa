import os
import sys

import jax
import numpy as np
import pytest

from nami_jax.parallel.kept_programs import compilations
from nami_jax.parallel.sharding import shard_batch
from nami_jax.training.compilation import CompilingAhead
from nami_jax.training.flow_task import FlowTask
from tests.support import patience, xla
from tests.support.paths import ROOT
from tests.support.runs import card_config
from tests.support.sizes import make_config

TWO_PHASES = {"stage_batches": ((8, 8, 8), (8, 16, 8)), "phase_starts": (0.0, 0.5), "phase_learning_rates": (1e-3,) * 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_steps_validation_and_pictures_run_what_was_compiled_ahead(data_dir, tmp_path, devices):
    train = TWO_PHASES | {"eval_every": 3, "sample_every": 5}
    task = FlowTask(card_config(data_dir, train=train), jax.devices()[:devices])
    task.sample_counts()
    state, views, step, loader = task.first_state(tmp_path), task.views(tmp_path), task.train_step(), task.loader()
    programs = task.programs(state, range(1, 13))
    assert [(program.step, program.name.split(" on ")[0]) for program in programs] == [
        (1, "the step"), (7, "the step"), (3, "the validation"), (5, "the pictures"),
    ]  # fmt: skip
    with CompilingAhead(programs) as ahead:
        ahead.wait(12)
    batches = [shard_batch(next(loader), task.mesh) for _ in range(12)]
    with compilations() as compiled:
        for batch in (batches[0], batches[6]):
            state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"])
        assert not compiled
        validated = views.validate(state)
        assert all(map(np.isfinite, validated.values()))
        views.preview(state, 2)
    # With several devices, that the result is copied to each of them is a program of its own, as small as can be.
    assert len(compiled) <= (devices > 1)


def test_a_dry_run_compiles_all_of_the_run_before_its_first_step(data_dir):
    task = FlowTask(card_config(data_dir, train=TWO_PHASES), jax.devices()[:1]).shortened(2)
    task.sample_counts()
    programs = task.programs(task.abstract_state(), range(1, 3))
    assert [program.step for program in programs] == [1, 1, 1, 1]


def test_a_run_that_stops_early_compiles_no_later_phase(data_dir):
    task = FlowTask(card_config(data_dir, train=TWO_PHASES), jax.devices()[:1])
    task.sample_counts()
    programs = task.programs(task.abstract_state(), range(2, 4))
    assert [program.step for program in programs] == [2, 3, 3]


def test_a_run_reads_what_it_begins_from_until_a_checkpoint_of_its_own_is_complete(tmp_path):
    task = FlowTask(make_config(train={"init_from": "another"}))
    (tmp_path / "checkpoints" / "100.orbax-checkpoint-tmp").mkdir(parents=True)
    assert task.needs_weights(tmp_path)
    (tmp_path / "checkpoints" / "100").mkdir()
    assert not task.needs_weights(tmp_path)


RUN = """
import sys
from pathlib import Path
import jax
from nami_jax.parallel.kept_programs import compilations, keep_on_disk
from tests.support.runs import card_config, train

keep_on_disk()
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
with compilations() as compiled:
    train(card_config(folder / "data", train={"eval_every": 1, "sample_every": 1}), folder / "run", stop_after=stop)
print("compiled", len(compiled))
"""


@pytest.mark.slow
def test_a_run_that_is_continued_in_another_process_compiles_nothing(tmp_path):
    clean = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_COMPILATION_CACHE"}
    env = clean | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XLA_FLAGS": xla.flags(devices=1),
        "PYTHONPATH": str(ROOT),
    }
    counts = []
    for stop in (2, 4, 6):
        command = [sys.executable, "-c", RUN, str(tmp_path), str(stop)]
        run = patience.run(command, 500, env=env, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        counts.append(int(run.stdout.split("compiled ")[-1]))
    assert counts[0] > 5
    assert counts[1] < 5  # what restoring a checkpoint runs, for the first time
    assert counts[2] == 0
    print(counts)
