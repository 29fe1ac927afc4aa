"""Tables and numbers of a plan as text."""

from collections.abc import Sequence

from nami_jax.monitoring.chips import GIB, TERA


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows under their header, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def gib(size: float) -> str:
    """Writes bytes in GiB."""
    return f"{size / GIB:.4g}"


def tera(flops: float) -> str:
    """Writes FLOPs in TFLOP."""
    return f"{flops / TERA:.4g}"
