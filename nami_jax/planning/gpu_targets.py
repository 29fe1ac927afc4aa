"""NVIDIA GPUs that need not be present: what XLA's compiler must know of a card to compile for it, and their devices.

The compiler is that of jax's CUDA plugin. It needs neither a GPU nor a driver, and of the CUDA libraries cuDNN alone,
which plans an attention kernel.
"""

import dataclasses
import importlib.metadata
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from nami_jax.config import require
from nami_jax.monitoring.chips import GIB, find_chip

HOST_GPUS = 8  # that NVLink joins on one board; more are on more hosts
# There is no card to time kernels on. Untimed, Triton's products have tiles that the compiler refuses for some shapes:
# all are cuBLAS's, with the workspace that it may use.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13")  # as the Makefile installs them

SHARE = "XLA_CLIENT_MEM_FRACTION"  # the variable by which jax is told how much of a card it may take
OLD_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # its former name, which jax reads too
USUAL_SHARE = 0.75
LARGEST_SHARE = 0.9  # leaves NCCL, cuDNN, cuBLAS and CUDA itself what they take beside jax's own


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU, by the figures that XLA's compiler asks for."""

    kind: str  # what `device.device_kind` is
    capability: int  # the first number of its compute capability
    multiprocessors: int
    lanes: int  # float32 operations that a multiprocessor begins at once
    clock: float  # GHz, boosted
    shared_kib: int  # of a multiprocessor; a block may have all but one KiB
    cache_mib: int  # its second level
    memory_gib: float  # as CUDA counts it: less than on the box, and a tenth more or less by the driver


# By NVIDIA's white papers on the Ampere (2020) and Hopper (2022) architectures, the data sheets of the SXM boards, and,
# for what follows from the compute capability, the CUDA programming guide's table of technical specifications. Memory
# is the total that PyTorch's messages name.
CARDS = {
    "a100-40gb": Card("NVIDIA A100-SXM4-40GB", 8, 108, 64, 1.41, 164, 40, 39.4),
    "a100": Card("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 164, 40, 79.1),
    "h100": Card("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 228, 50, 79.1),
    "h200": Card("NVIDIA H200", 9, 132, 128, 1.98, 228, 50, 139.7),
}
EXAMPLES = ("h100:8", "h200:8x4")


def card_devices(topology: str, known: str) -> tuple[Any, ...]:
    """Returns the devices of e.g. "h100:8", one host, or "h100:8x4", four hosts of eight.

    Args:
        topology: its card is one of `CARDS`.
        known: what to pass instead, for messages.

    Raises:
        ConfigError: it has not that form.
        ModuleNotFoundError: the compiler is not installed.
    """
    name, _, counts = topology.partition(":")
    found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", counts)
    require(
        found is not None,
        field="topology",
        value=topology,
        rule=f"{name} is followed by the GPUs of a host, and by x and the hosts where there are several",
        remedy=known,
    )
    assert found is not None
    gpus, hosts = int(found[1]), int(found[2] or 1)
    require(
        gpus <= HOST_GPUS,
        field="topology",
        value=topology,
        rule=f"a host has at most {HOST_GPUS} GPUs",
        remedy=f"Pass GPUs of a host x hosts, e.g. {name}:{HOST_GPUS}x{-(-gpus * hosts // HOST_GPUS)}",
    )
    target = target_text(CARDS[name], _cudnn_version())
    jax.config.update("jax_platforms", "cpu")
    # A host is a slice: NVLink joins its GPUs and no others.
    return tuple(topologies.get_topology_desc(name, "cuda", target_config=target, topology=f"{hosts}x1x{gpus}").devices)


def memory_share() -> float:
    """Returns the share of a card's memory that jax takes, by the environment, as the run's will be.

    Raises:
        ConfigError: it is not a share.
    """
    variable = OLD_SHARE if os.environ.get(OLD_SHARE) else SHARE
    value = os.environ.get(variable) or str(USUAL_SHARE)
    require(
        re.fullmatch(r"\d*\.?\d+", value) is not None and 0 < float(value) <= 1,
        field=variable,
        value=value,
        rule="must be above 0 and at most 1",
        remedy=f"Set e.g. {LARGEST_SHARE}",
    )
    return float(value)


def memory_bytes(card: Card) -> int:
    """Returns all of a card's memory, of which jax takes `memory_share()`."""
    return round(card.memory_gib * GIB)


def target_text(card: Card, cudnn: str) -> str:
    """Describes a card to the compiler: XLA's GpuTargetConfigProto as text.

    Args:
        card: the card.
        cudnn: cuDNN's version, e.g. "9.28.1". A target without one has no attention kernel.
    """
    major, minor, patch = cudnn.split(".")[:3]
    chip = find_chip(card.kind)
    assert chip is not None
    info = {
        "cuda_compute_capability": f"{{ major: {card.capability} }}",
        "core_count": card.multiprocessors,
        "fpus_per_core": card.lanes,
        "clock_rate_ghz": card.clock,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "shared_memory_per_core": card.shared_kib * 2**10,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": (card.shared_kib - 1) * 2**10,
        "l2_cache_size": card.cache_mib * 2**20,
        "memory_bandwidth": round(chip.memory_bandwidth),
        "device_memory_size": memory_bytes(card),
    }
    lines = "\n".join(f"  {name}: {value}" for name, value in info.items())
    return f"""gpu_device_info {{
{lines}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}
runtime_version {{ major: 13 }}
device_description_str: "{card.kind}"
"""


def _cudnn_version() -> str:
    try:
        return [importlib.metadata.version(package) for package in PACKAGES][-1]
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"Plans for NVIDIA GPUs are compiled by jax's CUDA plugin with cuDNN, and {error.name} is not installed "
            "(no GPU is needed). On x86-64 Linux `make plan` installs and finds them; or pip install, with --no-deps, "
            f"the {', '.join(PACKAGES)} that requirements-cuda.txt pins for this jax."
        ) from error
