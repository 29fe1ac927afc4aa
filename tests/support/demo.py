"""The demo with a tiny random model, as a process of its own."""

import os
import sys
from pathlib import Path
from typing import Any

from tests.support.pipelines import small_model
from tests.support.servers import Server


class Demo(Server):
    """Draws pictures of 16 x 16 in three stages of two steps.

    Attributes:
        temporary: the folder for its temporary files.
    """

    def __init__(self, folder: Path):
        """Writes the model into a folder."""
        super().__init__(folder / "log.txt")
        self.model, self.temporary = small_model(folder / "model"), folder / "temporary"
        self.temporary.mkdir()

    def start(self, *flags: Any) -> str:
        """Starts it, waits until it serves, and returns its address."""
        command = [sys.executable, "-m", "nami_jax.demo", f"--checkpoint={self.model}", *map(str, flags)]
        return self.start_command(command, env=os.environ | {"TMPDIR": str(self.temporary)})
