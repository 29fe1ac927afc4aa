import os
import signal
import socket
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from nami_jax.config import ConfigError
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.processes import LAST_WORD
from nami_jax.training.flags import define_process_flags
from tests.support import patience
from tests.support.flags import defined

ALONE = """
import sys
from absl import flags
from nami_jax.parallel import processes as distributed
from nami_jax.training.flags import define_process_flags
define_process_flags()
flags.FLAGS(sys.argv)
distributed.initialize()
"""


@pytest.fixture(autouse=True, scope="module")
def _flags():
    with defined(define_process_flags):
        flags.FLAGS.mark_as_parsed()
        yield


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_processes": 2, "process_id": 0},
            r"coordinator_address = None: is required with --num_processes --proc",
        ),
        ({"coordinator_address": "a:1"}, r"num_processes = None: is required .*Set e\.g\. --num_processes 2"),
        ({"process_id": 1, "distributed": True}, r"distributed = True: contradicts --process_id"),
        (
            {"coordinator_address": "a", "num_processes": 2, "process_id": 1},
            r"coordinator_address = 'a': must be host:",
        ),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, r"process_id = 2: .* Set 0 to 1"),
        ({"coordinator_address": "a:65536", "num_processes": 2, "process_id": 0}, r"'a:65536': must be host:port"),
    ],
)
def test_flags_that_are_half_given_or_cannot_work_are_refused(given, message):
    with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match=message):
        distributed.initialize()


def test_port_in_use_is_refused_before_xla_dies_of_it():
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        given = {"coordinator_address": address, "num_processes": 2, "process_id": 0}
        with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match="Address already in use"):
            distributed.initialize()


def test_process_without_flags_is_alone_and_the_main_one():
    distributed.initialize()
    assert distributed.is_main()


def test_no_cluster_to_join_is_an_error_and_not_a_run_of_one_process():
    run = subprocess.run([sys.executable, "-c", ALONE, "--distributed"], env=os.environ, capture_output=True, text=True)
    assert run.returncode == 1
    assert "ConfigError: distributed = True: jax finds no TPU pod, GKE or Slurm job that this process is" in run.stderr


def test_block_that_takes_too_long_ends_the_process():
    late = "import time; from nami_jax.parallel.processes import deadline\nwith deadline(0.1, 'late'): time.sleep(60)"
    run = patience.run([sys.executable, "-c", late], 50)
    assert (run.returncode, run.stderr) == (1, "error: late\n")


ENDING = (
    ALONE
    + """
import jax
with distributed.failing_alone():
    {end}
"""
)


@pytest.mark.parametrize(
    ("end", "status", "spoken"),
    [
        ("pass", 0, False),
        ("raise SystemExit('error: no')", 1, False),
        ("raise jax.errors.JaxRuntimeError('Connection closed by peer')", 1, True),
        ("import os; os.abort()", -signal.SIGABRT, True),
    ],
)
def test_the_last_word_is_spoken_after_an_end_that_xla_may_have_caused_and_after_no_other(end, status, spoken):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = [f"--coordinator_address={address}", "--num_processes=1", "--process_id=0"]
    command = [sys.executable, "-c", ENDING.format(end=end), *flags]
    run = patience.run(command, 60, env=os.environ)
    assert run.returncode == status, run.stderr
    assert run.stderr.rstrip().endswith(LAST_WORD) == spoken
    assert (LAST_WORD in run.stderr) == spoken
