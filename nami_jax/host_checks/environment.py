"""What a host is and runs: its devices, and the code and versions that must be the same on all hosts."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import nami_jax
from nami_jax.config import require

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # of the environment, which change the programs that are compiled


def check_hosts(expected: int | None) -> str:
    """Counts the processes that joined; raises `ConfigError` if they are not as many as expected."""
    found = jax.process_count()
    require(
        expected is None or found == expected,
        field="expected_hosts",
        value=expected,
        rule=f"{found} joined",
        remedy="Start the command on every host with --distributed, or with --coordinator_address, --num_processes and "
        "--process_id",
    )
    return f"{found}"


def check_devices(expected: int | None) -> str:
    """Counts the devices of all hosts; raises `ConfigError` if they are not as many as expected."""
    found, here, kind = jax.device_count(), jax.local_device_count(), jax.devices()[0].device_kind
    require(
        expected is None or found == expected,
        field="expected_devices",
        value=expected,
        rule=f"jax sees {found} in all, {here} x {kind} on this host",
        remedy="Check that each host has all of its chips, and that jax is installed for them",
    )
    return f"{found} x {kind}, {here} on each host"


def versions() -> dict[str, str]:
    """Returns the versions of what computes, and a digest of this package's own files."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    variables = {name: os.environ.get(name, "") for name in VARIABLES}
    return {"python": platform.python_version(), **packages, "nami_jax": code_digest(), "devices": devices, **variables}


def code_digest() -> str:
    """Returns a digest of the package's Python files: where the code was unpacked from an archive there is no git."""
    folder, digest = Path(nami_jax.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def config_facts(fields: Mapping[str, Any], workdir: Path) -> dict[str, str]:
    """Returns every field of the run's config by its name, and the workdir."""
    facts = {"workdir": str(workdir.absolute())}
    for section, content in fields.items():
        values = content.items() if isinstance(content, Mapping) else [("", content)]
        facts |= {f"config.{section}.{name}".rstrip("."): json.dumps(value, default=str) for name, value in values}
    return facts
