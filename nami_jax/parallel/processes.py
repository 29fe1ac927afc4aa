"""Joins the processes of a run on several hosts: `jax.distributed`, what they decide jointly, who reports.

An entry point calls `initialize` before anything asks jax for a device; `training.flags` defines the flags.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.experimental import multihost_utils

from nami_jax.config import ConfigError, require

PATIENCE = 24 * 3600  # seconds to wait for process 0's work; if it dies, its missing heartbeat shows much sooner
MESSAGE_BYTES = 2048  # of an error that is sent to all processes; longer ones are truncated
GRACE = 20  # seconds in which the other processes may fail too before one that fails ends alone
HEARTBEAT = 30  # seconds of silence, after which the other processes take one for dead and stop
LAST_WORD = (
    "error: this process of the run was killed, or XLA failed in it, perhaps because another one died or cannot be "
    "reached; the lines above say which. Checkpoints are intact: start the same command on every host again to "
    "continue the run."
)
_SPEAKERS: list[subprocess.Popen] = []  # the shells that speak the last word unless it is taken back
PLAIN = {"coordinator_address": "10.0.0.1:8476", "num_processes": 2, "process_id": 0}  # flags, with examples


def initialize() -> None:
    """Joins the other processes as the flags say; without such flags this process is alone.

    Ends the process with a message if the others do not join within `--initialization_timeout` seconds.

    Raises:
        ConfigError: flags are incomplete or contradictory, the port is in use, or jax finds no cluster.
    """
    args, seconds = flags.FLAGS, flags.FLAGS.initialization_timeout
    given: dict[str, Any] = {name: args[name].value for name in PLAIN if args[name].value is not None}
    if not (args.distributed or given):
        return
    require(
        not (args.distributed and given),
        field="distributed",
        value=True,
        rule=f"contradicts --{' --'.join(given)}",
        remedy="Use either --distributed, with which jax discovers the hosts, or the others",
    )
    if given:
        _require_usable(given)
        given["cluster_detection_method"] = "deactivate"
    late = (
        f"initialization_timeout = {seconds}: {socket.gethostname()} waited {seconds} s for the run's other "
        "processes, and not all joined. Start the same command on every host, check that each can reach process 0, or "
        "raise --initialization_timeout."
    )
    try:
        with deadline(seconds, late):  # before that of jax, which aborts with a stack trace and no reason
            jax.distributed.initialize(
                **given, initialization_timeout=seconds + 60, heartbeat_timeout_seconds=HEARTBEAT
            )
        _leave_a_word()
    except ValueError as error:
        raise ConfigError(
            f"distributed = True: jax finds no TPU pod, GKE or Slurm job that this process is part of. "
            f"Set --{' --'.join(PLAIN)} instead."
        ) from error


def is_main() -> bool:
    """Returns whether this is process 0, which alone prints and writes what the run needs once."""
    return jax.process_index() == 0


def first_error(error: str | None) -> str | None:
    """Returns the message of the first process that has one, the same on every process; waits until all have called.

    One that failed alone would leave the others waiting for it.

    Args:
        error: what went wrong on this process, None if nothing did.
    """
    if jax.process_count() == 1:
        return error
    own = np.zeros(MESSAGE_BYTES, np.uint8)
    text = np.frombuffer((error or "").encode()[:MESSAGE_BYTES], np.uint8)
    own[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(own))  # (processes, MESSAGE_BYTES)
    texts = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
    return next((text for text in texts if text), None)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """Runs the block on process 0 and then on the others, which then find what it has made, however long it takes.

    Args:
        name: of the block; must be unique.

    Raises:
        ConfigError: on the others, if the block failed on process 0.
    """
    wait = ocp.multihost.get_barrier_sync_fn()  # by the coordinator: devices may lose patience after a minute
    error: str | None = f"{name}: process 0 failed; see its output. Fix that and start the command on every host again."
    if is_main():
        try:
            yield
            error = None
        finally:
            wait(key=name, timeout_ms=1000 * PATIENCE)
            first_error(error)
        return
    wait(key=name, timeout_ms=1000 * PATIENCE)
    error = first_error(None)
    if error is not None:
        raise ConfigError(error)
    yield


@contextlib.contextmanager
def failing_alone() -> Iterator[None]:
    """Makes a process that fails in the block exit with 1 soon, and so ends the others, which may be waiting for it.

    jax waits for all processes at the end, where those that have not failed do not come, and after minutes aborts all.
    An XLA error may be caused by another process's end, and is left to that: its last word is spoken after it.
    """
    ours = True
    try:
        yield
        ours = False
    except jax.errors.JaxRuntimeError:
        ours = False
        atexit.unregister(_take_back_the_word)
        raise
    finally:
        if ours and jax.distributed.is_initialized():
            alone = threading.Timer(GRACE, os._exit, [1])
            alone.daemon = True  # at the end of a program the others are waited for before jax's own wait begins
            alone.start()


def _require_usable(given: dict[str, Any]) -> None:
    for name, example in PLAIN.items():
        require(
            name in given,
            field=name,
            value=None,
            rule=f"is required with --{' --'.join(given)}",
            remedy=f"Set e.g. --{name} {example}",
        )
    (host, _, port), count = given["coordinator_address"].rpartition(":"), given["num_processes"]
    require(
        bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
        field="coordinator_address",
        value=given["coordinator_address"],
        rule="must be host:port",
        remedy=f"Set e.g. {PLAIN['coordinator_address']}",
    )
    require(
        given["process_id"] < count,
        field="process_id",
        value=given["process_id"],
        rule=f"must be below --num_processes {count}",
        remedy=f"Set 0 to {count - 1}, a different one on each host",
    )
    try:
        if given["process_id"] == 0:  # it listens there, and XLA dies of a segmentation fault if it cannot
            socket.create_server(("", int(port))).close()
    except OSError as error:
        raise ConfigError(
            f"coordinator_address = {given['coordinator_address']!r}: port {port} is not available on "
            f"this host: {error.strerror}. Set another port on every host."
        ) from error


def _leave_a_word() -> None:
    """Makes sure that a process which ends without a message of ours, killed or aborted by XLA, still says what to do.

    When another process dies, XLA aborts this one from a thread of its own, where no Python runs any more. So a shell
    waits for the end of a pipe, and speaks unless a line came through it first.
    """
    script = ["sh", "-c", 'read -r _ || echo "$1" >&2', "sh", LAST_WORD]
    _SPEAKERS.append(subprocess.Popen(script, stdin=subprocess.PIPE, start_new_session=True))
    atexit.register(_take_back_the_word)


def _take_back_the_word() -> None:
    for speaker in _SPEAKERS:
        speaker.communicate(b"\n")


@contextlib.contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with a message, and 1, if the block takes longer: for waits that no exception can interrupt."""
    watchdog = threading.Timer(seconds, _give_up, [message])
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _give_up(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
