"""What a compiled program runs, read from its HLO text: collectives with their bytes, and how it attends.

The text is what `jax.stages.Compiled.as_text()` gives. A program of several devices is written once, as each of them
runs it.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Iterator

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

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?[\])}]) ([a-z][\w-]*)\((.*)$")
_CALLEE = re.compile(r"\b(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")


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


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes


class _Module:
    def __init__(self, text: str):
        self.computations: dict[str, list[_Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.append(_Instruction(*found.groups()))

    def visits(self) -> tuple[dict[str, int], set[str]]:
        """Returns how often each computation runs, and the loop bodies of unknown length among them."""
        times: collections.Counter[str] = collections.Counter()
        unknown = set()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for instruction in self.computations.get(name, ()):
                length = self._trip_count(instruction) if instruction.opcode == "while" else 1
                for callee in _callees(instruction.rest):
                    unknown.update({callee} if length is None else ())
                    visit(callee, count * (length or 1))

        visit(self.entry, 1)
        return times, unknown

    def _trip_count(self, loop: _Instruction) -> int | None:
        """Returns how often a loop runs: as XLA noted it or, where it did not, by the bound of a counter from 0."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(noted[1])
        condition = re.search(r"\bcondition=%?([\w.-]+)", loop.rest)
        instructions = self.computations.get(condition[1], ()) if condition else ()
        constants = {i.name: re.match(r"(\d+)\)", i.rest) for i in instructions if i.opcode == "constant"}
        bounds = [
            constant[1]
            for i in instructions
            if i.opcode == "compare" and "direction=LT" in i.rest
            for operand in _NAME.findall(i.rest)
            if (constant := constants.get(operand))
        ]
        return int(bounds[0]) if len(bounds) == 1 else None


def collectives(text: str) -> Collectives:
    """Counts the collectives of a compiled program.

    What is inside a loop counts once per iteration. An asynchronous collective is one, whether written as a
    start and a done or, on TPUs, as fragments fused into the work that it is hidden behind. TPUs write a reduce-scatter
    as a fusion of an all-reduce and a slice.

    Args:
        text: the program, as `compiled.as_text()` gives it.
    """
    module = _Module(text)
    visits, unknown = module.visits()
    found: dict[str, tuple[str, int, int]] = {}  # fragments of one collective have the same channel
    for name, times in visits.items():
        for channel, kind, size in _collectives_in(name, module.computations.get(name, [])):
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
    module = _Module(text)
    instructions = list(itertools.chain.from_iterable(module.computations.values()))
    lines = [f"{i.name} {i.rest}" for i in instructions if i.opcode == "custom-call"]
    calls = {name: sum(pattern.search(line) is not None for line in lines) for name, pattern in KERNELS.items()}
    fused = {callee for i in instructions if i.opcode == "fusion" for callee in _callees(i.rest)}
    weights = {
        f"{kind}[{sides}]"
        for name, computation in module.computations.items()
        if name not in fused
        for instruction in computation
        for kind, sides in _ARRAY.findall(instruction.shape)
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
    module, found = _Module(text), collections.Counter()
    for name, times in module.visits()[0].items():
        for instruction in module.computations.get(name, ()):
            if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest):
                source = re.search(r'op_name="(?:[^"]*/)?([^"/]*)"', instruction.rest)
                found[f"{source[1] if source else '?'} ({instruction.opcode})"] += times * int(estimate[1])
    return dict(found.most_common())


def _has_sides(sides: list[str], queries: str, keys: str) -> bool:
    return len(sides) > 2 and queries in sides and keys in sides and (queries != keys or sides.count(keys) > 1)


def _callees(attributes: str) -> list[str]:
    branches = _BRANCHES.search(attributes)
    return _CALLEE.findall(attributes) + (_NAME.findall(branches[1]) if branches else [])


def _collectives_in(computation: str, instructions: list[_Instruction]) -> Iterator[tuple[str, str, int]]:
    """Yields channel, kind and bytes of each collective; one without a channel is known by its name."""
    shapes = {instruction.name: instruction.shape for instruction in instructions}
    for instruction in instructions:
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        operands = _NAME.findall(instruction.rest.split(")", 1)[0])
        given = [_sizes(shapes[operand])[0] for operand in operands if operand in shapes]
        results = _sizes(instruction.shape)
        if instruction.opcode.endswith("-start") and len(results) >= 2 * len(operands):
            results = results[len(operands) : 2 * len(operands)]  # operands, results, and what the start keeps
        channel = re.search(r"\bchannel_id=(\d+)", instruction.rest)
        scatters = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
        yield (
            channel[1] if channel else f"{computation}/{instruction.name}",
            "reduce-scatter" if scatters else kind,
            max(sum(given), sum(results)),
        )


def _sizes(shape: str) -> list[int]:
    """Returns the bytes of each array of a shape such as `(f32[8,128]{1,0:T(8,128)}, u32[])`."""
    return [
        math.ceil(math.prod(int(side) for side in sides.split(",") if side) * _bits(kind) / 8)
        for kind, sides in _ARRAY.findall(shape)
    ]


def _bits(kind: str) -> int:
    """Returns the bits of an element: "bf16", "f8e4m3fn", "s32", "pred" (a byte), "token" (nothing)."""
    bits = re.match(r"(?:b?f|[suc])(\d+)", kind)
    return int(bits[1]) if bits else 8 * (kind == "pred")
