import errno
import os
import random
import shutil
import socket
import subprocess
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nami_jax.checkpoints.checkpoint import FINGERPRINTS, FROZEN, CheckpointError, Checkpoints, DamagedCheckpointError
from nami_jax.config import ConfigError, MeshConfig
from nami_jax.parallel.sharding import make_mesh
from nami_jax.training.state import TrainState
from tests.support.paths import ROOT
from tests.support.permissions import without_override
from tests.support.runs import numbers
from tests.support.sizes import CONFIG, make_config


def make_state(step):
    """A state with the items of a run's, small enough to be read hundreds of times; large enough for files of data."""
    key = jax.random.key(step, impl="rbg")
    params = {"kernel": jax.random.normal(key, (64, 32)), "norm": {"scale": jnp.full((8,), float(step))}}
    return TrainState(
        params=params,
        ema={"kernel": params["kernel"]},
        opt=(jnp.int32(step), params["norm"]),
        step=jnp.int32(step),
        key=key,
        bridge={"scales": jnp.full((2,), 0.5 * step)},
    )


def save(workdir, *steps):
    with Checkpoints(workdir, CONFIG) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step).items(), {"next_index": step})


def restore(workdir, state=None):
    """Continues as a run does; returns the loader's position, having compared all else with what was saved there."""
    with Checkpoints(workdir, CONFIG) as checkpoints:
        restored = checkpoints.restore_latest((state or make_state(0)).items())
    assert restored is not None
    state, position = TrainState.from_items(restored[0]), restored[1]
    found, expected = numbers(state), numbers(make_state(position["next_index"]))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    return position["next_index"]


def flip(file, rng):
    data = bytearray(file.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def cut(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def damage(step_folder, item, how=cut):
    """Damages all files of an item, beyond what could go unnoticed."""
    for file in files_of(step_folder / item):
        how(file, random.Random(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    save(workdir, 5, 7)
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


@pytest.mark.parametrize(("how", "seed"), [(flip, 0), (flip, 1), (flip, 2), (cut, 0)])
def test_whatever_file_is_damaged_a_run_continues_from_exactly_what_was_saved(saved, tmp_path, caplog, how, seed):
    rng, outcomes = random.Random(seed), []
    for file in files_of(saved / "checkpoints" / "7"):
        workdir = shutil.copytree(saved, tmp_path / "run")
        how(workdir / file.relative_to(saved), rng)
        caplog.clear()
        outcomes.append(restore(workdir))
        # Files that nothing is read from may be damaged without harm.
        assert [f"{workdir}/checkpoints/7 " in text for text in warnings_in(caplog)] == [True] * (outcomes[-1] == 5), (
            file
        )
        assert (workdir / "damaged").exists() == (outcomes[-1] == 5)
        shutil.rmtree(workdir)
    assert set(outcomes) == {5, 7}


@pytest.mark.parametrize("item", ["ema", "train", "bridge", "data", "config", FINGERPRINTS])
def test_every_item_is_watched_and_a_damaged_step_can_be_saved_again(copy, caplog, item):
    damage(copy / "checkpoints" / "7", item)
    with Checkpoints(copy, CONFIG) as checkpoints:
        restored = checkpoints.restore_latest(make_state(0).items())
        assert restored is not None
        assert restored[1] == {"next_index": 5}
        checkpoints.save(7, make_state(7).items(), {"next_index": 7})
    (warning,) = warnings_in(caplog)
    assert f"{copy}/checkpoints/7 " in warning
    assert "step 5" in warning
    assert restore(copy) == 7
    assert {path.name for path in (copy / "damaged").iterdir()} == {"7"}


def test_damage_that_orbax_does_not_notice_is_found(copy, caplog):
    # Another step's arrays are whole for Orbax, and of the right shapes.
    for item in ("ema", "train"):
        shutil.rmtree(copy / "checkpoints" / "7" / item)
        shutil.copytree(copy / "checkpoints" / "5" / item, copy / "checkpoints" / "7" / item)
    assert restore(copy) == 5
    assert "does not contain what was saved as ['ema', 'train']" in caplog.text


def failing_reads(monkeypatch, count):
    """Lets the disk fail at the first `count` of Orbax's reads; returns the list of all of them."""
    whole, reads = ocp.CheckpointManager.restore, []

    def restore(self, step, args):
        reads.append(step)
        if len(reads) <= count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(self, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    return reads


def test_a_disk_that_fails_once_costs_no_checkpoint(copy, monkeypatch, caplog):
    reads = failing_reads(monkeypatch, 1)
    assert restore(copy) == 7
    assert reads[:2] == [7, 7]
    assert not warnings_in(caplog)
    assert not (copy / "damaged").exists()


def test_what_could_not_be_read_twice_is_damaged_and_its_error_says_why(copy, monkeypatch):
    reads = failing_reads(monkeypatch, 2)
    complaint = r"checkpoints/7 cannot be read; it is damaged or of a different model: OSError: .*Input/output error\.$"
    with Checkpoints(copy) as checkpoints:
        with pytest.raises(DamagedCheckpointError, match=complaint) as raised:
            checkpoints.config(7)
        assert reads == [7, 7]
        assert checkpoints.config(7) == CONFIG
    cause = raised.value.__cause__
    assert isinstance(cause, OSError)
    assert "restore" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]


def test_a_step_damaged_twice_is_kept_twice(copy):
    for _ in range(2):
        damage(copy / "checkpoints" / "7", "train")
        assert restore(copy) == 5
        save(copy, 7)
    assert restore(copy) == 7
    assert {path.name for path in (copy / "damaged").iterdir()} == {"7", "7-2"}


@pytest.mark.parametrize("item", ["train", "config"])
def test_nothing_but_damaged_checkpoints_is_an_error_that_moves_nothing(copy, item):
    for step in ("5", "7"):
        damage(copy / "checkpoints" / step, item)
    with pytest.raises(CheckpointError, match=r"(?s)no valid checkpoint.*checkpoints/7 .*checkpoints/5 .*good copy"):
        restore(copy)
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"5", "7"}
    assert not (copy / "damaged").exists()


def test_reading_writes_nothing_even_beside_damage(copy):
    damage(copy / "checkpoints" / "7", "ema")
    (copy / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with Checkpoints(copy) as checkpoints:
        ema = checkpoints.latest_valid(lambda step: checkpoints.item(step, "ema", make_state(0).ema))
        np.testing.assert_array_equal(ema["kernel"], make_state(5).ema["kernel"])
        assert checkpoints.latest_step() == 5
        restored = checkpoints.restore_latest(make_state(0).items())
        assert restored is not None
        assert restored[1] == {"next_index": 5}
        with pytest.raises(DamagedCheckpointError, match=r"checkpoints/7 cannot be read"):
            checkpoints.item(7, "ema", make_state(0).ema)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_what_an_unfinished_save_left_is_removed_by_the_next_run(copy):
    (copy / "checkpoints" / "7.orbax-checkpoint-tmp" / "ema").mkdir(parents=True)
    save(copy, 9)
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"7", "9"}


def test_checkpoints_of_earlier_versions_are_read_as_they_are(copy):
    for step in ("5", "7"):
        shutil.rmtree(copy / "checkpoints" / step / FINGERPRINTS)
    assert restore(copy) == 7


def test_a_state_saved_on_eight_devices_is_whole_on_one(tmp_path):
    mesh = make_mesh(MeshConfig(fsdp=8))
    specs = jax.tree.map(lambda x: PartitionSpec("fsdp") if x.shape == (64, 32) else PartitionSpec(), make_state(3))
    spread = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), make_state(3), specs)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(3, spread.items(), {"next_index": 3})
    assert restore(tmp_path) == 3
    assert restore(tmp_path, spread) == 3


def test_a_second_run_is_refused_while_the_first_is_at_work(copy):
    with Checkpoints(copy, CONFIG) as first:
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} on {socket.gethostname()} is training in it"):
            Checkpoints(copy, CONFIG)
        with Checkpoints(copy) as reader:
            assert reader.latest_step() == 7
        first.save(8, make_state(8).items(), {"next_index": 8})
    assert restore(copy) == 8


def test_a_refused_run_does_not_hold_its_workdir(copy):
    with pytest.raises(ConfigError, match=r"train\.seed = 1"):
        Checkpoints(copy, make_config(train={"seed": 1}))
    assert restore(copy) == 7


def test_a_reader_is_not_misled_by_a_checkpoint_that_its_run_is_deleting(tmp_path, caplog):
    save(tmp_path, 1, 2)

    def load(step):
        if step == 2:  # the run saves another and begins to delete this one
            save(tmp_path, *range(3, 3 + CONFIG.train.keep_checkpoints))
            (tmp_path / "checkpoints" / "2" / "ema").mkdir(parents=True)
        return reader.item(step, "ema", make_state(0).ema), step

    with Checkpoints(tmp_path) as reader:
        assert reader.latest_valid(load)[1] == 2 + CONFIG.train.keep_checkpoints
    assert not warnings_in(caplog)


RUN = """
import itertools, pathlib, sys
from tests.checkpoints.test_checkpoint import make_state
from tests.support.sizes import make_config
from nami_jax.checkpoints.checkpoint import Checkpoints
with Checkpoints(pathlib.Path(sys.argv[1]), make_config(train={"keep_checkpoints": 1})) as checkpoints:
    for step in itertools.count(1):
        checkpoints.save(step, make_state(step).items(), {"next_index": step})
"""


@pytest.mark.slow
def test_a_run_in_progress_that_keeps_one_checkpoint_can_be_read_at_any_time(tmp_path, caplog):
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT)
    read = []
    try:
        while not list(tmp_path.glob("checkpoints/2")):
            assert run.poll() is None
        while len(read) < 100 or len(set(read)) <= 10:  # however slowly the run saves beside it
            assert run.poll() is None
            with Checkpoints(tmp_path) as reader:
                step, ema = reader.latest_valid(lambda step: (step, reader.item(step, "ema", make_state(0).ema)))
            np.testing.assert_array_equal(ema["kernel"], make_state(step).ema["kernel"])
            read.append(step)
    finally:
        run.kill()
        run.wait()
    assert not warnings_in(caplog)


def test_one_checkpoint_to_keep_means_two_for_the_newest_is_not_proved(tmp_path):
    with Checkpoints(tmp_path, make_config(train={"keep_checkpoints": 1})) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step).items(), {"next_index": step})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}


def test_the_best_are_kept_and_one_whose_figures_are_damaged_counts_as_not_measured(tmp_path):
    losses = {1: 0.5, 2: 0.2, 3: 0.4, 4: None, 5: 0.3, 6: 0.6, 7: 0.7}

    def go_on(*steps):
        with Checkpoints(tmp_path, CONFIG) as checkpoints:
            for step in steps:
                checkpoints.save(step, make_state(step).items(), {"next_index": step}, losses[step])
        return {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}

    assert go_on(1, 2, 3) == {2, 3}
    assert go_on(4, 5) == {2, 4, 5}
    (tmp_path / "checkpoints/2/metrics/metrics").write_bytes(b"\xff{")
    assert go_on(6) == {5, 6}
    assert go_on(7) == {5, 6, 7}


READ = """
import pathlib, sys
from tests.checkpoints.test_checkpoint import Checkpoints, make_state, restore
for workdir in map(pathlib.Path, sys.argv[1:]):
    with Checkpoints(workdir) as reader:
        ema = make_state(0).ema
        load = lambda step: (step, reader.config(step), reader.item(step, "ema", ema), reader.frozen(step))
        found = [reader.latest_valid(load)[0]]
    if workdir.name != "all":  # what may not be opened at all cannot be moved either, and a run says so
        found.append(restore(workdir))
    print(*found)
"""


def test_a_newest_checkpoint_that_may_not_be_read_is_passed_over(saved, tmp_path):
    expected = {"ema": "5 5", "train": "7 5", "metrics": "7 7", FINGERPRINTS: "5 5", FROZEN: "5 7", "": "5"}
    workdirs = [shutil.copytree(saved, tmp_path / (name or "all")) for name in expected]
    for name, workdir in zip(expected, workdirs, strict=True):
        (workdir / "checkpoints" / "7" / name).chmod(0)
    command = without_override([sys.executable, "-c", READ, *map(str, workdirs)])
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == list(expected.values())


def test_a_reader_takes_the_checkpoint_that_replaced_the_one_it_was_reading(tmp_path, caplog):
    save(tmp_path, 1, 2)

    def load(step):
        if step == 2:
            save(tmp_path, *range(3, 3 + CONFIG.train.keep_checkpoints))
        return reader.config(step), step

    with Checkpoints(tmp_path) as reader:
        assert reader.latest_valid(load)[1] == 2 + CONFIG.train.keep_checkpoints
    assert not warnings_in(caplog)
