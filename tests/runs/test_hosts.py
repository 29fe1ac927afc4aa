"""Two hosts train as one does, and a run goes from hosts to hosts and devices to devices."""

import dataclasses
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import MeshConfig
from nami_jax.parallel.processes import LAST_WORD
from nami_jax.training.flow_task import FlowTask
from tests.support import patience
from tests.support.event_files import read_values
from tests.support.hosts import finish, start_hosts, write_config
from tests.support.runs import card_config, numbers, restored, train

HALF, FSDP = 6, {"fsdp": 4}
FLAGS = ("--config.mesh.fsdp=4", "--config.train.log_every=1")
QUIET = ("--config.train.eval_every=100000", "--config.train.sample_every=100000")
# Adam makes much of rounding where a gradient is nearly 0: up to a few learning rates of 1e-3 in all.
ROUNDING = 5e-4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def cfg(data_dir):
    return card_config(data_dir, mesh=FSDP, train={"log_every": 1})


@pytest.fixture(scope="module")
def config_file(data_dir, tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"), data_dir)


@pytest.fixture(scope="module")
def two_hosts(config_file, tmp_path_factory):
    """The first half of a run by two processes of four devices, which also find the data set unprepared."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    hosts = start_hosts(config_file, workdir, [*FLAGS, f"--stop_after={HALF}"], hosts=2, devices=4)
    printed = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], "\n\n".join(printed)
    return workdir, printed


@pytest.fixture(scope="module")
def one_host(two_hosts, cfg, tmp_path_factory):
    """The same half by one process of eight devices; then the whole run."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    half = numbers(train(cfg, workdir, stop_after=HALF))
    return workdir, half, numbers(train(cfg, workdir))


def losses(workdir):
    return dict(sorted(read_values(workdir / "events")["loss"].items()))


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=ROUNDING, err_msg=name)


@pytest.mark.parametrize("devices", [8, 1])
def test_two_hosts_match_one_and_their_checkpoint_is_read_by_any_number_of_devices(two_hosts, one_host, cfg, devices):
    mesh = cfg.mesh if devices == 8 else MeshConfig()
    task = FlowTask(dataclasses.replace(cfg, mesh=mesh), jax.devices()[:devices])
    with Checkpoints(two_hosts[0]) as checkpoints:
        state, position = restored(checkpoints, task)
    assert position["next_index"] == HALF
    expected = {name: value for name, value in one_host[1].items() if not name.startswith(".frozen")}
    assert_close(numbers(state), expected)
    kernel = state.opt[1].mu["single_blocks"]["proj"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (4 if devices == 8 else 1)


def test_two_hosts_have_the_losses_of_one(two_hosts, one_host):
    found, expected = losses(two_hosts[0]), losses(one_host[0])
    assert list(found) == list(range(1, HALF + 1))
    for step, loss in found.items():
        assert loss == pytest.approx(expected[step], rel=1e-5), step


def test_the_first_host_alone_speaks_for_the_run(two_hosts):
    workdir, (first, second) = two_hosts
    assert len(list((workdir / "events").iterdir())) == 1
    assert [path.name for path in (workdir / "samples").iterdir()] == [f"step_000000{HALF}.png"]
    assert "validation/stage_3" in first
    assert "training" in first
    assert "Sample from it" in first
    assert "training" not in second
    assert "validation" not in second


@pytest.mark.slow
def test_when_a_host_dies_the_other_stops_with_a_reason_and_both_continue(config_file, tmp_path):
    flags = [*FLAGS, "--config.train.steps=100000", "--config.train.checkpoint_every=5", *QUIET]
    hosts = start_hosts(config_file, tmp_path, flags, hosts=2, devices=4)
    try:
        wait_for(tmp_path / "checkpoints" / "5", hosts)
        hosts[1].send_signal(signal.SIGKILL)
        printed, _ = patience.finish(hosts[0], 60)
    finally:
        finish(hosts)
    assert hosts[0].returncode != 0
    assert "unhealthy" in printed
    assert printed.rstrip().endswith(LAST_WORD)
    with Checkpoints(tmp_path) as checkpoints:
        last = checkpoints.latest_step()
    hosts = start_hosts(config_file, tmp_path, [*flags, f"--stop_after={last + 2}"], hosts=2, devices=4)
    printed = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], "\n\n".join(printed)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == last + 2
    assert LAST_WORD not in "".join(printed)


def wait_for(path, hosts, seconds=240):
    """Waits until `path` exists; fails if a host ends before."""
    watch = patience.Stopwatch()
    while not path.exists():
        assert watch.look() < seconds, f"{path} did not come"
        ended = [host.communicate()[0] for host in hosts if host.poll() is not None]
        assert not ended, ended[0]
        time.sleep(1)


@pytest.mark.slow
def test_a_run_goes_from_two_hosts_to_four_devices_to_one(two_hosts, one_host, cfg, tmp_path):
    workdir = shutil.copytree(two_hosts[0], tmp_path / "run")
    train(cfg, workdir, jax.devices()[:4], stop_after=9)
    state = numbers(train(card_config(cfg.data.data_dir, train={"log_every": 1}), workdir, jax.devices()[:1]))
    assert_close(state, one_host[2])
    found, expected = losses(workdir), losses(one_host[0])
    assert list(found) == list(expected) == list(range(1, 13))
    for step, loss in found.items():
        assert loss == pytest.approx(expected[step], rel=1e-3), step  # the parameters have Adam's rounding in them
