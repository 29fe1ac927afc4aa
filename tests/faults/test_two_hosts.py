"""Faults that meet one of two hosts only: both must decide alike."""

import os
import signal

import pytest

from nami_jax.checkpoints.checkpoint import Checkpoints
from tests.faults.commands import STEPS, Commands, read_until
from tests.support import patience
from tests.support.hosts import finish, start_hosts

FLAGS = ("--config.mesh.fsdp=2", "--config.train.checkpoint_every=4")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return Commands(tmp_path_factory.mktemp("config"))


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


def stop_one(commands, workdir, when):
    """Runs two hosts, signals the second when the first has printed `when`, and returns after which step both stop."""
    hosts = start_hosts(commands.config, workdir, FLAGS, hosts=2, devices=1)
    try:
        read_until(hosts[0], when)
        hosts[1].send_signal(signal.SIGTERM)
        printed = [patience.finish(host, 60)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n\n".join(printed)
    message = f"Stopped after step {newest(workdir)} of {STEPS}, which is saved. The same command continues."
    assert all(message in text for text in printed)
    assert not any("Traceback" in text or "error:" in text for text in printed)
    return newest(workdir)


@pytest.fixture(scope="module")
def stopped(commands, workdir):
    """Returns the step after which a signal to one host has stopped the run in `workdir`."""
    return stop_one(commands, workdir, f"4/{STEPS}")


def test_a_signal_to_one_host_stops_both_after_the_same_step(stopped):
    assert stopped >= 4


@pytest.mark.slow
def test_a_signal_before_a_continued_run_makes_a_step_stops_both_after_the_first(commands, workdir, stopped):
    first = newest(workdir)
    assert first >= stopped
    assert stop_one(commands, workdir, "compiling:") == first + 1


@pytest.mark.slow
def test_an_error_that_the_first_host_alone_meets_ends_both(commands, tmp_path):
    flags = ["--config.data.data_dir=/proc/none"]  # where it cannot build the data; the other waits for them
    hosts = start_hosts(commands.config, tmp_path / "run", flags, hosts=2, devices=1)
    printed = finish(hosts, 120)
    assert [host.returncode for host in hosts] == [1, 1], "\n\n".join(printed)
    assert "error: data: process 0 failed; see its output." in printed[1]


@pytest.mark.slow
def test_an_error_that_one_host_meets_later_ends_the_other_within_a_minute(commands, tmp_path):
    hosts = start_hosts(commands.config, tmp_path / "run", FLAGS, hosts=2, devices=1)
    try:
        read_until(hosts[0], "compiling:")
        events = tmp_path / "run" / "events"  # a folder that was looked at, and which the first host needs after this
        events.rmdir()
        events.touch()
        read_until(hosts[0], "File exists")
        watch = patience.Stopwatch()
        printed = [patience.finish(host, 120)[0] for host in hosts]
        seconds = watch.look()
    finally:
        for host in hosts:
            host.kill()
    assert hosts[0].returncode == 1, printed[0]
    assert hosts[1].returncode not in (0, 1), printed[1]
    assert "start the same command on every host again" in printed[1]
    assert seconds < 60
    print(f"the other host ended {seconds:.0f} s after the error")


@pytest.mark.slow
def test_a_file_that_one_host_alone_reads_makes_both_use_the_checkpoint_before(commands, workdir, stopped):
    first = newest(workdir)
    assert first >= stopped
    run_hosts(commands, workdir, f"--stop_after={first + 1}")
    shards = (workdir / "checkpoints" / str(first + 1) / "train" / "ocdbt.process_1" / "d").iterdir()
    largest = max(shards, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    printed = run_hosts(commands, workdir, f"--stop_after={first + 1}")
    for text in printed:
        assert f"checkpoints/{first + 1} cannot be read" in text
        assert f"before it instead: step {first}." in text
        assert "Traceback" not in text
    assert newest(workdir) == first + 1
    assert {path.name for path in (workdir / "damaged").iterdir()} == {str(first + 1)}
