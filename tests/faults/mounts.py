"""Small and read-only file systems for a test's process: mounted in a namespace of its own, gone with it."""

import pathlib
import subprocess

import pytest

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def mounted(folder: pathlib.Path, options: str, command: list[str]) -> list[str]:
    """Returns a command that runs another with a tmpfs in `folder`, or skips the test where that is not permitted.

    Args:
        folder: an empty one.
        options: of the mount, e.g. "size=4m".
        command: sees the tmpfs; nobody else does.
    """
    script = f'mount -t tmpfs -o {options} tmpfs {folder} && exec "$@"'
    try:
        subprocess.run([*NAMESPACE, "sh", "-c", script, "sh", "true"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare: install util-linux")
    except subprocess.CalledProcessError as error:
        pytest.skip(
            f"may not mount a tmpfs in a namespace ({error.stderr.strip()}): permit unprivileged user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0; in a "
            "container: --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
        )
    return [*NAMESPACE, "sh", "-c", script, "sh", *command]
