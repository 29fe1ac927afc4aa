"""The devices that a plan is for: TPUs or NVIDIA GPUs that need not be present, or this machine's own.

TPU programs are compiled by libtpu, which needs no TPU to do so. Its devices are chips: the two cores of a v4 or v5p
count as one. What GPUs need is in `gpu_targets`.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from nami_jax.config import require
from nami_jax.monitoring.chips import Chip, find_chip
from nami_jax.planning import gpu_targets

HOST = "host"
EXAMPLES = {"v4": "v4:2x2x2", "v5e": "v5e:16x16", "v5p": "v5p:4x4x4", "v6e": "v6e:8x8"}  # sides count chips
KNOWN_TPUS = f"Pass {HOST}, or a version and the chips along each side, e.g. {', '.join(EXAMPLES.values())}"
KNOWN_GPUS = (
    f"a card ({', '.join(gpu_targets.CARDS)}) and the GPUs of a host, x the hosts, "
    f"e.g. {', '.join(gpu_targets.EXAMPLES)}"
)

# So that libtpu asks no metadata server, takes no lock for the TPU that it will not use, and keeps no log.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_OVERFLOWS = (
    re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm"),
    re.compile(r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)"),
)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a plan is for."""

    name: str  # the topology's, or "host"
    devices: tuple[Any, ...]  # as jax has them; those of a topology can be compiled for and nothing else
    memory_limit: int  # bytes that a program may use on each device
    chip: Chip | None  # None where the table of chips has no such device
    memory_total: int | None = None  # bytes on each device, of which jax was told to take that share; None: takes all
    compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Overflow:
    """What the compiler says about a program that does not fit, in bytes of one device's memory."""

    needed: int  # at least: it may give up before it has counted all
    limit: int


def find_hardware(topology: str) -> Hardware:
    """Returns the devices of a topology such as "v5e:16x16" or "h100:8", or this machine's for "host".

    For a topology, jax is told to leave this machine's accelerators alone: call it before any device is used.

    Raises:
        ConfigError: there is no such topology.
        ModuleNotFoundError: its compiler is not installed.
    """
    version = topology.partition(":")[0]
    require(
        topology == HOST or version in EXAMPLES or version in gpu_targets.CARDS,
        field="topology",
        value=topology,
        rule="is not a topology",
        remedy=f"{KNOWN_TPUS}; or {KNOWN_GPUS}",
    )
    if topology == HOST:
        return _host()
    return _tpus(topology) if version in EXAMPLES else _gpus(topology)


def _gpus(topology: str) -> Hardware:
    devices = gpu_targets.card_devices(topology, f"Pass {KNOWN_GPUS}")
    total = gpu_targets.memory_bytes(gpu_targets.CARDS[topology.partition(":")[0]])
    limit, chip = round(gpu_targets.memory_share() * total), find_chip(devices[0].device_kind)
    return Hardware(topology, devices, limit, chip, total, gpu_targets.COMPILER_OPTIONS)


def _tpus(topology: str) -> Hardware:
    version, _, sides = topology.partition(":")
    dimensions = EXAMPLES[version].count("x") + 1
    require(
        re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides) is not None and sides.count("x") + 1 == dimensions,
        field="topology",
        value=topology,
        rule=f"{version} has {dimensions} sides",
        remedy=KNOWN_TPUS,
    )
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "Plans for TPUs are compiled by libtpu, which is not installed (no TPU is needed). On x86-64 Linux "
            "`make plan` installs and finds it; or pip install the libtpu that requirements-tpu.txt pins for this jax."
        )
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"chip_config_name": "megacore"} if version == "v4" else {}
    if set(sides.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # 2x2x1 otherwise
    try:
        devices = topologies.get_topology_desc(topology, "tpu", **options).devices
    except JaxRuntimeError as error:
        kind, _, reason = str(error).splitlines()[0].partition(": ")
        require(
            kind != "INVALID_ARGUMENT",
            field="topology",
            value=topology,
            rule=f"libtpu says: {reason}",
            remedy=KNOWN_TPUS,
        )
        raise
    return Hardware(topology, tuple(devices), compiler_limit(devices[0]), find_chip(devices[0].device_kind))


def _host() -> Hardware:
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    if stats is None:  # the CPU: all of its devices share the machine's memory
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    else:
        memory = stats["bytes_limit"]
    return Hardware(HOST, tuple(devices), memory, find_chip(devices[0].device_kind))


def compiler_limit(device: Any) -> int:
    """Asks the TPU compiler how many bytes of a device it may use, by a program that fits nowhere."""
    huge = jax.ShapeDtypeStruct((2**40,), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(jnp.negative).lower(huge).compile()
    except JaxRuntimeError as error:
        return find_overflow(error).limit
    raise AssertionError("a program of 8 TiB was compiled")


def find_overflow(error: RuntimeError) -> Overflow:
    """Reads the compiler's message about a program that is too large; raises any other error again."""
    for pattern in _OVERFLOWS:
        if "RESOURCE_EXHAUSTED" in str(error) and (found := pattern.search(str(error))):
            return Overflow(*map(_bytes, found.groups()))
    raise error


def _bytes(size: str) -> int:
    """Reads "15.75G" as bytes."""
    unit = "KMGT".find(size[-1]) + 1
    return round(float(size[:-1] if unit else size) * 2 ** (10 * unit))
