"""Comparing the tensors of a file with those that a network has. Knows no network; all that read weights use it."""

from collections.abc import Collection, Mapping

Shapes = Mapping[str, tuple[int, ...]]


class WeightsError(ValueError):
    """Weights that do not fit a network. The message lists every missing, unexpected and misshapen key."""


def require_tensors(expected: Shapes, found: Shapes, unused: Collection[str] = ()) -> None:
    """Compares shapes key by key.

    Args:
        expected: what the network has.
        found: what the file holds.
        unused: keys that the file may hold and the network does not need.

    Raises:
        WeightsError: they differ; the message lists every difference.
    """
    lines = [f"missing     {key} {expected[key]}" for key in expected.keys() - found.keys()]
    lines += [f"unexpected  {key} {found[key]}" for key in found.keys() - expected.keys() - set(unused)]
    lines += [
        f"misshapen   {key}: {found[key]}, the network has {expected[key]}"
        for key in expected.keys() & found.keys()
        if tuple(expected[key]) != tuple(found[key])
    ]
    if lines:
        listed = "\n  ".join(sorted(lines))
        raise WeightsError(f"the weights do not fit the network; take weights and sizes from one release:\n  {listed}")
