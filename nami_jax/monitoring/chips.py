"""Peak rate, memory and price of accelerators, by the names that jax gives them."""

import dataclasses

GIB = 2**30
TERA = 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as jax counts them; the two cores of a TPU v4 or v5p are one."""

    name: str  # as topologies and price lists call it
    device_kinds: tuple[str, ...]  # what `device.device_kind` may be
    peak_flops: float  # dense bfloat16 FLOPs per second, by the maker's data sheet
    memory_bytes: int  # of its high-bandwidth memory; the runtime keeps a few per cent to itself
    price_per_hour: float  # USD on demand, to compare by: see CHIPS
    clock: float | None = None  # cycles per second, where the compiler's estimates in cycles have been checked by it


# Prices are list prices of 2025 in US regions, which move: Google Cloud for TPUs, AWS EC2 for GPUs (an eighth of a p4d,
# p4de, p5, p5en), with the host that comes with them.
CHIPS = (
    Chip("v4", ("TPU v4",), 275 * TERA, 32 * GIB, 3.22),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197 * TERA, 16 * GIB, 1.20, clock=1.5e9),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459 * TERA, 95 * GIB, 4.20),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918 * TERA, 32 * GIB, 2.70),
    Chip("A100 40GB", ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 312 * TERA, 40 * GIB, 2.74),
    Chip("A100 80GB", ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 312 * TERA, 80 * GIB, 3.43),
    Chip("H100", ("NVIDIA H100 80GB HBM3",), 989 * TERA, 80 * GIB, 6.88),
    Chip("H200", ("NVIDIA H200",), 989 * TERA, 140 * GIB, 7.91),
)


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip that jax calls `device_kind`; None for one that is not in the table, such as a CPU."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)
