"""Faults that meet one of two hosts only: both must decide alike."""

import os
import signal

import pytest

from nami_jax.checkpoint import Checkpoints
from tests.faults.commands import Commands
from tests.hosts import finish, start_hosts

FLAGS = ("--config.mesh.fsdp=2", "--config.train.checkpoint_every=4")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return Commands(tmp_path_factory.mktemp("config"), steps=100000)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


def run_hosts(commands, workdir, *flags):
    hosts = start_hosts(commands.config, workdir, [*FLAGS, *flags], hosts=2, devices=1)
    printed = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], "\n\n".join(printed)
    return printed


def newest(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest_step()


def test_a_signal_to_one_host_stops_both_after_the_same_step(commands, workdir):
    hosts = start_hosts(commands.config, workdir, FLAGS, hosts=2, devices=1)
    try:
        assert hosts[0].stdout is not None
        printed = ""
        while "4/100000" not in printed:
            printed += hosts[0].stdout.read(1)
            assert hosts[0].poll() is None, printed
        hosts[1].send_signal(signal.SIGTERM)
        printed = [host.communicate(timeout=60)[0] for host in hosts]
    finally:
        finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], "\n\n".join(printed)
    message = f"Stopped after step {newest(workdir)} of 100000, which is saved. The same command continues."
    assert all(message in text for text in printed)
    assert not any("Traceback" in text or "error:" in text for text in printed)


def test_a_file_that_one_host_alone_reads_makes_both_use_the_checkpoint_before(commands, workdir):
    first = newest(workdir)
    run_hosts(commands, workdir, f"--stop_after={first + 1}")
    shards = (workdir / "checkpoints" / str(first + 1) / "train" / "ocdbt.process_1" / "d").iterdir()
    largest = max(shards, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    printed = run_hosts(commands, workdir, f"--stop_after={first + 1}")
    for text in printed:
        assert f"checkpoints/{first + 1} cannot be read" in text
        assert f"used instead: step {first}." in text
        assert "Traceback" not in text
    assert newest(workdir) == first + 1
    assert {path.name for path in (workdir / "damaged").iterdir()} == {str(first + 1)}
