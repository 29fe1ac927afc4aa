"""A command that serves, as a process of its own: started, waited for and stopped by hand."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.paths import ROOT

SERVING = re.compile(r"Serving on (http://[\w.]+:(\d+))")


class Server:
    """A server and its log.

    Attributes:
        log: what it has said, whenever it was started.
        process: that runs, or None.
    """

    def __init__(self, log: Path):
        """Takes where its log goes."""
        self.log = log
        self.process: subprocess.Popen | None = None

    def start_command(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        """Starts it, waits until it serves, and returns its address."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=env)
        while True:
            ended, said = self.process.poll() is not None, self.log.read_text()[before:]
            if found := SERVING.search(said):
                return found[1]
            assert not ended, said
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal and waits until it has ended; returns its exit status, 0 if it was not running."""
        if self.process is None:
            return 0
        os.kill(self.process.pid, how)
        status, self.process = self.process.wait(), None
        return status
