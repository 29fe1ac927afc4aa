"""What one instruction of a compiled program does: FLOPs of its products, and bytes of the device's large memory.

Counted so as not to be more than is really done: arithmetic element by element, padding and collectives' own buffers
are left out, and of an array of which a fusion uses slices, the slices alone are read.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from nami_jax.planning.hlo import KINDS
from nami_jax.planning.hlo_module import ARRAY, Instruction, Module, all_sides, array_sizes, memory_sizes, sides

# Products of queries by keys, or of the same size, that an attention kernel computes. Splash has two backward kernels.
PRODUCTS = {
    "splash_mha_fwd": 2,
    "splash_mha_dq": 3,
    "splash_mha_dkv": 4,
    "__cudnn$fmhaSoftmaxBackward": 5,
    "__cudnn$fmhaSoftmax": 2,
}
COPIES = ("copy-start", "slice-start")  # between memories, beside what follows them
SLICES = ("dynamic-slice", "gather", "slice")
# Names of other arrays or parts of them, and what runs other computations.
_FREE = (
    *("after-all", "bitcast", "call", "conditional", "constant", "get-tuple-element", "parameter", "partition-id"),
    *("replica-id", "tuple", "while"),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does."""

    flops: float  # of matrix products
    bytes: float  # read from and written to its large memory

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(times * self.flops, times * self.bytes)


def work(module: Module, instruction: Instruction, shapes: Mapping[str, str]) -> Work:
    """Counts one run of an instruction that is not inside a fusion; none for what only runs other computations.

    Args:
        module: the program.
        instruction: one of it.
        shapes: of its computation's instructions, by name.
    """
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in _FREE or opcode.endswith("-done") or is_collective(instruction):
        return Work(0, 0)
    written = sum(memory_sizes(instruction.shape))
    if opcode == "fusion":
        return Work(_flops(module, instruction, shapes), sum(_fusion_bytes(module, instruction, shapes)))
    if opcode in COPIES:  # the operand, the result, and what the start keeps
        read, written = memory_sizes(instruction.shape)[:2]
        return Work(0, written + min(read, max(array_sizes(instruction.shape)[1:2])))
    if opcode in SLICES:
        return Work(0, written + min(sum(array_sizes(instruction.shape)), _memory(operands[0], shapes)))
    if opcode == "dynamic-update-slice":
        return Work(0, 2 * _memory(operands[1], shapes))
    read = sum(_memory(operand, shapes) for operand in dict.fromkeys(operands))
    if opcode == "custom-call":
        return Work(_flops(module, instruction, shapes), _call_bytes(instruction, shapes))
    return Work(_flops(module, instruction, shapes), read + written)


def is_collective(instruction: Instruction) -> bool:
    """Returns whether an instruction sends something to other devices, or begins to."""
    return instruction.opcode.removesuffix("-start") in KINDS


def attention_kernel(instruction: Instruction) -> str | None:
    """Returns the attention kernel that an instruction calls, as `PRODUCTS` names it."""
    if instruction.opcode != "custom-call":
        return None
    target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    names = instruction.name, target[1] if target else ""
    return next((kernel for kernel in PRODUCTS if any(name.startswith(kernel) for name in names)), None)


def _memory(name: str, shapes: Mapping[str, str]) -> int:
    return sum(memory_sizes(shapes.get(name, "")))


def _flops(module: Module, instruction: Instruction, shapes: Mapping[str, str]) -> float:
    given = [sides(shapes.get(operand, "")) for operand in instruction.operands]
    if instruction.opcode == "fusion":
        inside = [module.computations.get(callee, []) for callee in instruction.callees]
        return sum(_flops(module, i, {j.name: j.shape for j in each}) for each in inside for i in each)
    if instruction.opcode == "dot":
        return _product_flops(r"lhs_contracting_dims=\{([\d,]*)\}", instruction, given)
    if "__cublas" in instruction.rest:
        return _product_flops(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction, given)
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, given[0], given[1])
    if kernel := attention_kernel(instruction):
        return PRODUCTS[kernel] * _logits_flops(instruction, shapes)
    return 0.0


def _logits_flops(kernel: Instruction, shapes: Mapping[str, str]) -> float:
    """Counts the product of an attention kernel's queries and keys."""
    queries, keys = _tensors(kernel, shapes)[:2]  # splash has (B, N, L, H), where one image has no axis B
    noted = re.search(r'"intermediate_tensor_shape":.*?"dimensions": ?\[([^\]]*)\]', kernel.rest)  # cuDNN: (B, N, L, M)
    pairs = [int(side) for side in re.findall(r"\d+", noted[1])] if noted else [*queries[0][:-1], keys[0][-2]]
    return 2.0 * math.prod(pairs) * queries[0][-1]


def _tensors(kernel: Instruction, shapes: Mapping[str, str]) -> list[tuple[list[int], int]]:
    """Returns sides and bytes of a kernel's queries, keys, values, their gradients and results: arrays of one kind."""
    arrays = [
        (kind, axes, size)
        for shape in [*(shapes.get(operand, "") for operand in kernel.operands), kernel.shape]
        for (kind, _, _), axes, size in zip(ARRAY.findall(shape), all_sides(shape), memory_sizes(shape), strict=True)
        if len(axes) > 2 and "f" in kind
    ]
    (of_queries, (*_, channels), _), *_ = arrays
    return [(axes, size) for kind, axes, size in arrays if kind == of_queries and axes[-1] == channels]


def _call_bytes(call: Instruction, shapes: Mapping[str, str]) -> int:
    """Counts each array of a kernel once; its sums, workspace and counters are left out, and so are other calls."""
    if attention_kernel(call):
        return sum(size for _, size in _tensors(call, shapes))
    if "__cublas" in call.rest:
        return sum(_memory(operand, shapes) for operand in call.operands) + memory_sizes(call.shape)[0]
    return 0


def _product_flops(contracted: str, product: Instruction, given: Sequence[Sequence[int]]) -> float:
    axes = re.search(contracted, product.rest)
    sums = [given[0][int(axis)] for axis in re.findall(r"\d+", axes[1])] if axes else []
    return 2.0 * math.prod(sides(product.shape)) * math.prod(sums)


def _convolution_flops(convolution: Instruction, image: Sequence[int], kernel: Sequence[int]) -> float:
    """Counts a convolution's products with what is not padding. TPUs write every product as one."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.rest)
    assert labels is not None
    shapes = image, kernel, sides(convolution.shape)
    of_image, of_kernel, of_result = (
        dict(zip(*each, strict=True)) for each in zip(labels.groups(), shapes, strict=True)
    )
    total = 2.0 * of_result["b"] * of_result["f"] * of_kernel["i"]
    for axis in filter(str.isdigit, of_result):
        total *= _pairs(int(axis), convolution, of_image[axis], of_kernel[axis], of_result[axis])
    return total


def _pairs(axis: int, convolution: Instruction, length: int, window: int, results: int) -> int:
    """Counts the pairs of a result and a place of the window that meet an element and not padding, along one axis."""
    stride, dilation, spread = (
        int(_along(axis, name, convolution, "1")) for name in ("stride", "rhs_dilate", "lhs_dilate")
    )
    before = int(_along(axis, "pad", convolution, "0_0").split("_")[0])
    every = itertools.product(range(results), range(window))
    met = (result * stride + place * dilation - before for result, place in every)
    return sum(0 <= at <= (length - 1) * spread and at % spread == 0 for at in met)


def _along(axis: int, name: str, convolution: Instruction, otherwise: str) -> str:
    window = re.search(r"window=\{([^}]*)\}", convolution.rest)
    found = re.search(rf"\b{name}=(\S+)", window[1]) if window else None
    return found[1].split("x")[axis] if found else otherwise


def _fusion_bytes(module: Module, fusion: Instruction, shapes: Mapping[str, str]) -> Iterator[int]:
    """Yields what a fusion reads of each operand and writes of each result, at the least."""
    inside = module.computations[fusion.callees[0]]
    by_name, users = {i.name: i for i in inside}, collections.defaultdict(list)
    for instruction in inside:
        for operand in instruction.operands:
            users[operand].append(instruction)
    parameters = {int(i.rest.split(")", 1)[0]): i for i in inside if i.opcode == "parameter"}
    for index, operand in enumerate(fusion.operands):
        if size := _memory(operand, shapes):
            yield min(size, _read(parameters[index], users))
    root = inside[-1]
    results = [by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for size, result in zip(memory_sizes(fusion.shape), results, strict=False):  # a result may be a tuple of its own
        yield min(size, _written(result, by_name))


def _read(value: Instruction, users: Mapping[str, Sequence[Instruction]]) -> int:
    total, whole = 0, sum(array_sizes(value.shape))
    for user in users[value.name]:
        if user.opcode == "bitcast":
            total += _read(user, users)
        elif user.opcode in SLICES and user.operands[0] == value.name:
            total += sum(array_sizes(user.shape))
        elif _passes_on(user) or (user.opcode == "dynamic-update-slice" and user.operands[0] == value.name):
            continue
        else:
            return whole
    return min(total, whole)


def _written(value: Instruction, by_name: Mapping[str, Instruction]) -> int:
    if value.opcode == "bitcast":
        return _written(by_name[value.operands[0]], by_name)
    if value.opcode == "dynamic-update-slice":  # in place
        return sum(array_sizes(by_name[value.operands[1]].shape))
    return 0 if value.opcode == "parameter" or _passes_on(value) else sum(array_sizes(value.shape))


def _passes_on(instruction: Instruction) -> bool:
    """Returns whether something is not a fusion's own work: a tuple of results, a fragment of a collective."""
    fragment = instruction.opcode == "custom-call" and "AsyncCollective" in instruction.rest
    return instruction.opcode == "tuple" or fragment or is_collective(instruction)
