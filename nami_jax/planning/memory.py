"""How much of each device's memory a program needs, by kind: from shapes and shardings, or from compiling it."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from jax.stages import Compiled, Lowered

from nami_jax.monitoring.chips import GIB
from nami_jax.planning.hardware import Hardware, find_overflow
from nami_jax.planning.hlo import AttentionKernels, Collectives, attention, collectives, cycles
from nami_jax.planning.roofline import Bound, roofline
from nami_jax.training.state import TrainState

STATE_PARTS = {"params": "parameters", "ema": "EMA", "opt": "moments", "frozen": "frozen parameters"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program as the compiler made it, or what is known of one that does not fit."""

    parts: Mapping[str, int]  # bytes on each device by kind
    total: int  # bytes on each device; of a program that the compiler gave up, at least so many
    limit: int  # bytes that it may use
    seconds: float  # that its compilation took; 0 where its arguments alone do not fit
    collectives: Collectives | None  # None if it was not compiled to the end
    attention: AttentionKernels | None = None  # the same
    cycles: int = 0  # that the compiler expects, kernels apart; 0 where it says nothing of it
    bound: Bound | None = None  # on its time; None where the device's rates are not known either

    @property
    def fits(self) -> bool:
        """Whether the devices' memory holds it."""
        return self.collectives is not None and self.total <= self.limit


def shard_bytes(tree: Any) -> int:
    """Sums the bytes that a pytree of ShapeDtypeStructs takes on each device, by their shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def state_parts(state: TrainState) -> dict[str, int]:
    """Returns the bytes on each device of an abstract training state, by kind, those alone that it has."""
    parts = dict.fromkeys([*STATE_PARTS.values(), "other state"], 0)
    for field in dataclasses.fields(state):
        parts[STATE_PARTS.get(field.name, "other state")] += shard_bytes(getattr(state, field.name))
    return {kind: size for kind, size in parts.items() if size}


def measure(
    name: str,
    lower: Callable[[], Lowered],
    known: Mapping[str, int],
    hardware: Hardware,
    resident: int = 0,
    lengths: Collection[tuple[int, int]] = (),
) -> Measured:
    """Compiles a program and asks the compiler for its memory, unless its arguments alone are too large.

    Args:
        name: the program's, to be shown while it is compiled.
        lower: traces it.
        known: bytes on each device of its arguments, by kind.
        hardware: what it is compiled for.
        resident: bytes on each device that are taken by what is not among the arguments.
        lengths: of queries and keys on one device, by which attention weights are known.

    Raises:
        JaxRuntimeError: it cannot be compiled for another reason than its memory.
    """
    arguments, limit = sum(known.values()) + resident, hardware.memory_limit
    if arguments > limit:
        return Measured(known, arguments, limit, 0.0, None)
    print(f"compiling {name} ...", end=" ", file=sys.stderr, flush=True)
    began, parts, found, attends, expected, bound = time.perf_counter(), known, None, None, 0, None
    try:
        compiled = lower().compile(compiler_options=dict(hardware.compiler_options))
    except JaxRuntimeError as error:
        total = max(find_overflow(error).needed, limit + 1)
    else:
        parts, text = _compiled_parts(compiled, known), _text(compiled)
        found, attends, expected = collectives(text), attention(text, lengths), sum(cycles(text).values())
        bound = roofline(text, hardware.chip) if hardware.chip else None
        total = sum(parts.values()) + resident
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s, {total / GIB:.4g} of {limit / GIB:.4g} GiB", file=sys.stderr)
    return Measured(parts, total, limit, seconds, found, attends, expected, bound)


def _compiled_parts(compiled: Compiled, known: Mapping[str, int]) -> dict[str, int]:
    stats = compiled.memory_analysis()
    assert stats is not None
    return dict(known) | {
        "padding of arguments": max(stats.argument_size_in_bytes - sum(known.values()), 0),
        "temporaries": stats.temp_size_in_bytes,
        "results": max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),  # beyond those in donated arguments
        "code": stats.generated_code_size_in_bytes,
    }


def _text(compiled: Compiled) -> str:
    text = compiled.as_text()
    assert text is not None
    return text
