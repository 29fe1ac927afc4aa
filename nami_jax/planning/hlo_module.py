"""The HLO text of a compiled program as computations and their instructions, for those who read facts from it."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

NAME = re.compile(r"%([\w.-]+)")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?[\])}]) ([a-z][\w-]*)\((.*)$")
_CALLEE = re.compile(r"\b(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """The names of what it takes."""
        return NAME.findall(self.rest.split(")", 1)[0])

    @property
    def callees(self) -> list[str]:
        """The computations that it runs, a loop's condition apart."""
        branches = _BRANCHES.search(self.rest)
        return _CALLEE.findall(self.rest) + (NAME.findall(branches[1]) if branches else [])

    @property
    def source(self) -> str:
        """The last part of the name that jax gave it; "?" without one."""
        source = re.search(r'op_name="(?:[^"]*/)?([^"/]*)"', self.rest)
        return source[1] if source else "?"


class Module:
    """A program: its computations by name, in the order in which a scheduled one runs their instructions."""

    def __init__(self, text: str):
        """Reads a program as `compiled.as_text()` gives it."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.append(Instruction(*found.groups()))

    def visits(self) -> tuple[dict[str, int], set[str]]:
        """Returns how often each computation runs, and the loop bodies of unknown length among them."""
        times: collections.Counter[str] = collections.Counter()
        unknown = set()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for instruction in self.computations.get(name, ()):
                length = self.trip_count(instruction) if instruction.opcode == "while" else 1
                for callee in instruction.callees:
                    unknown.update({callee} if length is None else ())
                    visit(callee, count * (length or 1))

        visit(self.entry, 1)
        return times, unknown

    def trip_count(self, loop: Instruction) -> int | None:
        """Returns how often a loop runs: as XLA noted it or, where it did not, by the bound and step of its counter.

        The counter begins at 0. Loops that XLA has unrolled count by more than 1.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(noted[1])
        condition = re.search(r"\bcondition=%?([\w.-]+)", loop.rest)
        instructions = self.computations.get(condition[1], ()) if condition else ()
        constants, by_name = _constants(instructions), {i.name: i for i in instructions}
        bounds = [
            (constants[bound], by_name.get(counter))
            for i in instructions
            if i.opcode == "compare" and "direction=LT" in i.rest
            for counter, bound in [i.operands]
            if bound in constants
        ]
        if len(bounds) != 1:
            return None
        bound, counter = bounds[0]
        return math.ceil(bound / self._step(loop, counter))

    def _step(self, loop: Instruction, counter: Instruction | None) -> int:
        """Returns what a loop's body adds to its counter, an element of the loop's state; 1 if that cannot be read."""
        index = re.search(r"\bindex=(\d+)", counter.rest) if counter else None
        body = self.computations.get(loop.callees[0], []) if loop.callees else []
        if not index or not body or body[-1].opcode != "tuple":
            return 1
        constants, following = _constants(body), body[-1].operands[int(index[1])]
        steps = [
            constants[operand]
            for i in body
            if i.name == following and i.opcode == "add"
            for operand in i.operands
            if operand in constants
        ]
        return steps[0] if steps else 1


def _constants(instructions: Iterable[Instruction]) -> dict[str, int]:
    found = {i.name: re.match(r"(\d+)\)", i.rest) for i in instructions if i.opcode == "constant"}
    return {name: int(number[1]) for name, number in found.items() if number}


def array_sizes(shape: str) -> list[int]:
    """Returns the bytes of each array of a shape such as `(f32[8,128]{1,0:T(8,128)}, u32[])`."""
    return [_bytes(kind, sides) for kind, sides, _ in ARRAY.findall(shape)]


def memory_sizes(shape: str) -> list[int]:
    """Returns the same, but 0 for arrays that the layout puts elsewhere than into a device's large memory."""
    return [0 if "S(" in layout else _bytes(kind, sides) for kind, sides, layout in ARRAY.findall(shape)]


def sides(shape: str) -> list[int]:
    """Returns the sides of the first array of a shape."""
    return next(all_sides(shape), [])


def all_sides(shape: str) -> Iterator[list[int]]:
    """Yields the sides of each array of a shape."""
    for _, numbers, _ in ARRAY.findall(shape):
        yield [int(side) for side in numbers.split(",") if side]


def _bytes(kind: str, numbers: str) -> int:
    return math.ceil(math.prod(int(side) for side in numbers.split(",") if side) * _bits(kind) / 8)


def _bits(kind: str) -> int:
    """Returns the bits of an element: "bf16", "f8e4m3fn", "s32", "pred" (a byte), "token" (nothing)."""
    bits = re.match(r"(?:b?f|[suc])(\d+)", kind)
    return int(bits[1]) if bits else 8 * (kind == "pred")
