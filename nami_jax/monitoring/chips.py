"""Peak rate, memory and price of accelerators, by the names that jax gives them."""

import dataclasses

GIB = 2**30
TERA = 1e12
A100 = "NVIDIA A100"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as jax counts them; the two cores of a TPU v4 or v5p are one."""

    name: str  # as topologies and price lists call it
    device_kinds: tuple[str, ...]  # what `device.device_kind` may be
    peak_flops: float  # dense bfloat16 FLOPs per second, by the maker's data sheet
    memory_bytes: int  # of its high-bandwidth memory; the runtime keeps a few per cent to itself
    memory_bandwidth: float  # of that memory, bytes per second
    link_bandwidth: float  # bytes per second that it sends over all its links to others of its kind; as many come in
    price_per_hour: float  # USD on demand, to compare by: see CHIPS
    clock: float | None = None  # cycles per second, of chips whose compiler estimates in cycles


# Rates are the makers': Google Cloud's pages on TPUs, which give both directions of the links together (v4's one), and
# NVIDIA's data sheets of the SXM boards, whose links are the NVLink of a host. A TPU's clock follows from its peak rate
# and its multipliers: 4 units of 128 x 128 in a v5e, 8 in a v4 and v5p, 4 of 256 x 256 in a v6e. By it the compiler
# expects a product of 4096 x 4096 matrices to run at 97, 96, 88 and 87 % of the peak of v5e, v5p, v4 and v6e.
# Prices are list prices of 2025 in US regions, which move: Google Cloud for TPUs, AWS EC2 for GPUs (an eighth of a p4d,
# p4de, p5, p5en), with the host that comes with them.
CHIPS = (
    Chip("v4", ("TPU v4",), 275 * TERA, 32 * GIB, 1.228 * TERA, 0.3 * TERA, 3.22, clock=1.05e9),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197 * TERA, 16 * GIB, 0.819 * TERA, 0.2 * TERA, 1.20, clock=1.5e9),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459 * TERA, 95 * GIB, 2.765 * TERA, 0.6 * TERA, 4.20, clock=1.75e9),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918 * TERA, 32 * GIB, 1.64 * TERA, 0.4 * TERA, 2.70, clock=1.75e9),
    Chip(
        "A100 40GB",
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        312 * TERA,
        40 * GIB,
        1.555 * TERA,
        0.3 * TERA,
        2.74,
    ),
    Chip(
        "A100 80GB",
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        312 * TERA,
        80 * GIB,
        2.039 * TERA,
        0.3 * TERA,
        3.43,
    ),
    Chip("H100", ("NVIDIA H100 80GB HBM3",), 989 * TERA, 80 * GIB, 3.35 * TERA, 0.45 * TERA, 6.88),
    Chip("H200", ("NVIDIA H200",), 989 * TERA, 140 * GIB, 4.8 * TERA, 0.45 * TERA, 7.91),
)


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip that jax calls `device_kind`; None for one that is not in the table, such as a CPU."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)
