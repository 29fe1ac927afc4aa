"""Processes to which permissions mean something."""

import os
import shutil

import pytest


def without_override(command: list[str]) -> list[str]:
    """Returns a command that runs another, to which what may not be read cannot be read, root or not."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything; without that needs setpriv: install util-linux")
    may_not = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={may_not}", f"--inh-caps={may_not}", *command]
