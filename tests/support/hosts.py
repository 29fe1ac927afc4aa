"""Runs the training command as several hosts: processes of this machine with CPU devices of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import patience, xla
from tests.support.paths import ROOT

CONFIG = """
from ml_collections import ConfigDict
from nami_jax.config import Config
from tests.support.runs import card_config
def get_config():
    return ConfigDict(card_config({data_dir!r}).to_dict())
"""


def write_config(folder: Path, data_dir: Path) -> Path:
    """Writes a config file of the card run."""
    path = folder / "cards.py"
    path.write_text(CONFIG.format(data_dir=str(data_dir)))
    return path


def start_hosts(config: Path, workdir: Path, flags: Sequence[str] = (), *, hosts: int, devices: int):
    """Starts `python -m nami_jax.train` on `hosts` processes of `devices` CPU devices each; stdout holds all output."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "nami_jax.train", f"--config={config}", f"--workdir={workdir}", *flags,
               f"--coordinator_address={address}", f"--num_processes={hosts}"]  # fmt: skip
    return [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": xla.flags(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(hosts)
    ]


def finish(processes: Sequence[subprocess.Popen], seconds: float = 300) -> list[str]:
    """Waits for each, so many seconds of a quiet machine, and returns what they printed; kills those that hang."""
    try:
        return [patience.finish(process, seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
