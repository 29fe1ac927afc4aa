"""What a plan says of time without assuming a utilisation: bounds by roofline, and the compiler's estimate."""

from collections.abc import Mapping

from nami_jax.monitoring.chips import GIB, Chip
from nami_jax.planning.memory import Measured
from nami_jax.planning.roofline import KERNEL, limit
from nami_jax.planning.tables import table, tera

OPERATIONS = 8  # that are listed of a program


def bounds_text(programs: Mapping[str, Measured], chip: Chip) -> str:
    """Returns the bound of each program that was compiled, and of what it consists."""
    rows = []
    for name, measured in programs.items():
        if (bound := measured.bound) is None:
            continue
        numbers = bound.products, bound.memory, bound.operations, bound.sent, bound.exposed, bound.seconds
        rows.append((name, *(f"{seconds:.3g}" for seconds in numbers), _estimate(measured, chip)))
    header = ("no faster than, s", "products", "memory", "operations", "links", "waiting", "together", "compiler")
    return (
        table(header, rows)
        + f"\nA bound at the peak rates of a {chip.name}: {tera(chip.peak_flops)} TFLOP/s of products, "
        f"{tera(chip.memory_bandwidth)} TB/s of memory, {tera(chip.link_bandwidth)} TB/s"
        "\nover all links to other devices. Operations: the larger of products and memory, one by one. Waiting: what of"
        "\nlinks is not hidden behind operations between its start and its end. What is done element by element costs"
        "\nits memory alone. Compiler: no bound, but its own estimate in cycles at the chip's clock; kernels, which it"
        "\ndoes not estimate, by their bound, and no waiting."
    )


def operations_text(name: str, measured: Measured, chip: Chip) -> str:
    """Returns a table of a program's costliest operations, with what limits them."""
    if measured.bound is None:
        return f"{name}: no operations are known."
    rows = [
        (operation, f"{seconds:.3g}", tera(work.flops), f"{work.bytes / GIB:.4g}", limit(work, chip))
        for operation, (seconds, work) in list(measured.bound.by_operation.items())[:OPERATIONS]
    ]
    return table((name, "s", "TFLOP", "GiB", "limit"), rows)


def _estimate(measured: Measured, chip: Chip) -> str:
    if chip.clock is None or not measured.cycles or measured.bound is None:
        return "-"
    kernels = sum(each[0] for name, each in measured.bound.by_operation.items() if name.startswith(KERNEL))
    return f"{measured.cycles / chip.clock + kernels:.3g}"
