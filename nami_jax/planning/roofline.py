"""A bound on a program's time, from its compiled text: each operation's FLOPs and bytes against a chip's peak rates.

An operation takes no less than its matrix products at the peak rate, and no less than what it reads from and writes to
the device's large memory at that one's bandwidth. Operations run one after the other, in the order of the scheduled
text; what devices send each other goes over all links at once, beside what the program does between starting it and
waiting for it. Real programs take longer.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52 (2009).
"""

import collections
import dataclasses
from collections.abc import Mapping

from nami_jax.monitoring.chips import Chip
from nami_jax.planning.hlo import collectives_in
from nami_jax.planning.hlo_module import Instruction, Module
from nami_jax.planning.work import COPIES, Work, attention_kernel, is_collective, work

KERNEL = "attention by "  # how the names of its operations begin
_RUNS_OTHERS = ("while", "call", "conditional")


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least time of a program on a chip, seconds."""

    products: float  # of its matrix products alone
    memory: float  # of its bytes alone
    operations: float  # of one operation after the other
    sent: float  # of what goes to other devices, over all links at once
    exposed: float  # for which the program waits, of that, when all takes its least time
    by_operation: Mapping[str, tuple[float, Work]]  # the costliest first

    @property
    def seconds(self) -> float:
        """The bound: what is copied beside the operations shares the memory with them."""
        return max(self.operations + self.exposed, self.memory)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run of a computation, seconds."""

    clock: float = 0.0  # all of it
    exposed: float = 0.0
    sent: float = 0.0


def roofline(text: str, chip: Chip) -> Bound:
    """Bounds the time of a compiled program on each device.

    Args:
        text: the program, as `compiled.as_text()` gives it.
        chip: the devices' peak rates.
    """
    return _Schedule(Module(text), chip).bound()


def least_seconds(done: Work, chip: Chip) -> float:
    """Returns what some work takes at the least."""
    return max(done.flops / chip.peak_flops, done.bytes / chip.memory_bandwidth)


def limit(done: Work, chip: Chip) -> str:
    """Returns which of a chip's rates holds some work: "products" or "memory"."""
    return "products" if done.flops / chip.peak_flops >= done.bytes / chip.memory_bandwidth else "memory"


class _Schedule:
    """A program whose instructions run in their order, each in its least time."""

    def __init__(self, module: Module, chip: Chip):
        self.module, self.chip = module, chip
        self.written = {name: list(collectives_in(name, each)) for name, each in module.computations.items()}
        self.work: dict[tuple[str, str], Work] = {}  # by computation and instruction
        self.runs: dict[str, _Run] = {}

    def bound(self) -> Bound:
        run = self.run(self.module.entry)
        found: dict[str, tuple[float, Work]] = {}
        total = Work(0, 0)
        for name, times in self.times().items():
            for instruction in self.module.computations[name]:
                done = self.work[name, instruction.name] * times
                seconds, before = found.get(_label(instruction), (0.0, Work(0, 0)))
                found[_label(instruction)] = seconds + self.seconds(instruction, done), before + done
                total += done
        ordered = sorted(((name, each) for name, each in found.items() if each[0]), key=lambda item: -item[1][0])
        return Bound(
            total.flops / self.chip.peak_flops,
            total.bytes / self.chip.memory_bandwidth,
            run.clock - run.exposed,
            run.sent,
            run.exposed,
            dict(ordered),
        )

    def times(self) -> dict[str, int]:
        """Returns how often each computation runs that is not a part of an instruction."""
        found: collections.Counter[str] = collections.Counter()

        def visit(name: str, count: int) -> None:
            found[name] += count
            for instruction in self.module.computations[name]:
                for body, trips in self.bodies(instruction):
                    visit(body, count * trips)

        visit(self.module.entry, 1)
        return found

    def bodies(self, instruction: Instruction) -> list[tuple[str, int]]:
        """Returns the computations that an instruction runs, and how often; of a conditional's the first alone."""
        if instruction.opcode not in _RUNS_OTHERS:
            return []
        trips = (self.module.trip_count(instruction) or 1) if instruction.opcode == "while" else 1
        chosen = instruction.callees[:1] if instruction.opcode == "conditional" else instruction.callees
        return [(body, trips) for body in chosen]

    def seconds(self, instruction: Instruction, done: Work) -> float:
        return 0.0 if instruction.opcode in COPIES else least_seconds(done, self.chip)

    def run(self, name: str) -> _Run:
        """Runs a computation and the loops in it."""
        if name in self.runs:
            return self.runs[name]
        instructions = self.module.computations[name]
        shapes = {i.name: i.shape for i in instructions}
        begins, ends = self.sending(name)
        clock = exposed = sent = free = 0.0  # `free`: when the links have sent what they were given
        arrives: dict[str, float] = {}
        for instruction in instructions:
            for channel, size in begins.get(instruction.name, {}).items():
                takes = size / self.chip.link_bandwidth
                sent += takes
                free = arrives[channel] = max(free, clock) + takes
            done = self.work[name, instruction.name] = work(self.module, instruction, shapes)
            clock += self.seconds(instruction, done)
            for body, trips in self.bodies(instruction):
                inner = self.run(body)
                clock += trips * inner.clock
                exposed += trips * inner.exposed
                sent += trips * inner.sent
            for channel in ends.get(instruction.name, ()):
                wait = max(arrives.pop(channel) - clock, 0.0)
                clock, exposed = clock + wait, exposed + wait
        self.runs[name] = _Run(clock, exposed, sent)
        return self.runs[name]

    def sending(self, name: str) -> tuple[dict[str, dict[str, int]], dict[str, list[str]]]:
        """Returns the channels, with bytes, whose collective begins with an instruction, and those that end with one.

        A collective begins with its first fragment and ends with its last, or where a start's result is waited for.
        """
        instructions = self.module.computations[name]
        own = {collective.instruction: collective for collective in self.written[name]}
        waits = {i.operands[0]: i.name for i in instructions if i.opcode.endswith("-done")}
        sizes: dict[str, int] = {}
        first: dict[str, str] = {}
        last: dict[str, str] = {}
        for instruction in instructions:
            callees = [] if instruction.opcode in _RUNS_OTHERS else instruction.callees
            found = [collective for callee in callees for collective in self.written.get(callee, ())]
            found += [own[instruction.name]] if is_collective(instruction) else []
            for collective in found:
                sizes.setdefault(collective.channel, collective.bytes)
                first.setdefault(collective.channel, instruction.name)
                last[collective.channel] = waits.get(instruction.name, instruction.name)
        begins, ends = collections.defaultdict(dict), collections.defaultdict(list)
        for channel, size in sizes.items():
            begins[first[channel]][channel] = size
            ends[last[channel]].append(channel)
        return begins, ends


def _label(instruction: Instruction) -> str:
    kernel = attention_kernel(instruction)
    return f"{KERNEL}{kernel}" if kernel else f"{instruction.source} ({instruction.opcode})"
