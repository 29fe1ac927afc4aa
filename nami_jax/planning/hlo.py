"""What a compiled program runs, read from its HLO text: collectives with their bytes, and how it attends.

The text is what `jax.stages.Compiled.as_text()` gives. A program of several devices is written once, as each of them
runs it.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from nami_jax.planning.hlo_module import ARRAY, Instruction, Module, array_sizes

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

# Attention kernels by what their calls have in their line, whose name comes first.
KERNELS = {
    "cuDNN's": re.compile(r'custom_call_target="__cudnn\$fmha'),
    "splash": re.compile(r'^splash_.*custom_call_target="tpu_custom_call"'),
}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kind of collective over a whole run of the program, as one device sees it."""

    count: int  # times that one is run
    bytes: int  # of the arrays they gather, reduce or send: the larger of what goes in and what comes out


@dataclasses.dataclass(frozen=True)
class Collectives:
    """What one device of a program sends and receives."""

    traffic: dict[str, Traffic]  # by kind
    uncounted_loops: int  # loops of unknown length that hold collectives, counted as if they ran once


@dataclasses.dataclass(frozen=True)
class AttentionKernels:
    """How a program attends."""

    calls: dict[str, int]  # of kernels in the program's text, by name; without any, attention is XLA's own
    weights: tuple[str, ...]  # arrays in memory with a side for the queries and one for the keys: "bf16[2,16,512,512]"


def collectives(text: str) -> Collectives:
    """Counts the collectives of a compiled program.

    What is inside a loop counts once per iteration. An asynchronous collective is one, whether written as a
    start and a done or, on TPUs, as fragments fused into the work that it is hidden behind. TPUs write a reduce-scatter
    as a fusion of an all-reduce and a slice.

    Args:
        text: the program, as `compiled.as_text()` gives it.
    """
    module = Module(text)
    visits, unknown = module.visits()
    found: dict[str, tuple[str, int, int]] = {}  # fragments of one collective have the same channel
    for name, times in visits.items():
        for _, channel, kind, size in collectives_in(name, module.computations.get(name, [])):
            _, most, _ = found.get(channel, (kind, 0, 0))
            found[channel] = (kind, max(times, most), size)
    traffic = {
        kind: Traffic(
            sum(times for k, times, _ in found.values() if k == kind),
            sum(times * size for k, times, size in found.values() if k == kind),
        )
        for kind in sorted({kind for kind, _, _ in found.values()})
    }
    return Collectives(traffic, len(unknown))


def attention(text: str, lengths: Collection[tuple[int, int]]) -> AttentionKernels:
    """Finds the attention kernels that a program calls, and the attention weights that it keeps.

    What is inside a fusion is not in memory, and not counted. An array of three and more axes that happens to have two
    such sides counts as weights: compare programs whose widths are other numbers.

    Args:
        text: the program, as `compiled.as_text()` gives it.
        lengths: of queries and keys on one device.
    """
    module = Module(text)
    instructions = list(itertools.chain.from_iterable(module.computations.values()))
    lines = [f"{i.name} {i.rest}" for i in instructions if i.opcode == "custom-call"]
    calls = {name: sum(pattern.search(line) is not None for line in lines) for name, pattern in KERNELS.items()}
    fused = {callee for i in instructions if i.opcode == "fusion" for callee in i.callees}
    weights = {
        f"{kind}[{sides}]"
        for name, computation in module.computations.items()
        if name not in fused
        for instruction in computation
        for kind, sides, _ in ARRAY.findall(instruction.shape)
        if any(_has_sides(sides.split(","), str(queries), str(keys)) for queries, keys in lengths)
    }
    return AttentionKernels({name: count for name, count in calls.items() if count}, tuple(sorted(weights)))


def cycles(text: str) -> dict[str, int]:
    """Sums the cycles that the TPUs' compiler expects of each operation, over the whole run of a program.

    It writes them beside the instructions, except for kernels and what waits for other devices.

    Args:
        text: the program, as `compiled.as_text()` gives it.

    Returns:
        Cycles by operation, most first: the last part of the name that jax gave an instruction, and its opcode.
    """
    module, found = Module(text), collections.Counter()
    for name, times in module.visits()[0].items():
        for instruction in module.computations.get(name, ()):
            if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest):
                found[f"{instruction.source} ({instruction.opcode})"] += times * int(estimate[1])
    return dict(found.most_common())


def _has_sides(sides: list[str], queries: str, keys: str) -> bool:
    return len(sides) > 2 and queries in sides and keys in sides and (queries != keys or sides.count(keys) > 1)


class Collective(NamedTuple):
    """A collective where it is written.

    Attributes:
        instruction: its name.
        channel: the same for all fragments of one.
        kind: one of KINDS.
        bytes: the larger of what goes in and what comes out.
    """

    instruction: str
    channel: str
    kind: str
    bytes: int


def collectives_in(computation: str, instructions: Sequence[Instruction]) -> Iterator[Collective]:
    """Yields the collectives of a computation; one without a channel is known by its name."""
    shapes = {instruction.name: instruction.shape for instruction in instructions}
    for instruction in instructions:
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        operands = instruction.operands
        given = [array_sizes(shapes[operand])[0] for operand in operands if operand in shapes]
        results = array_sizes(instruction.shape)
        if instruction.opcode.endswith("-start") and len(results) >= 2 * len(operands):
            results = results[len(operands) : 2 * len(operands)]  # operands, results, and what the start keeps
        channel = re.search(r"\bchannel_id=(\d+)", instruction.rest)
        scatters = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
        yield Collective(
            instruction.name,
            channel[1] if channel else f"{computation}/{instruction.name}",
            "reduce-scatter" if scatters else kind,
            max(sum(given), sum(results)),
        )
