import pytest

from nami_jax.planning.hlo_module import Module, all_sides, array_sizes, memory_sizes, sides

LOOP = """\
%body (state: (u32[], f32[8])) -> (u32[], f32[8]) {
  %state = (u32[], f32[8]{0}) parameter(0)
  %one = u32[] constant(1)
  %step = u32[] constant(STEP)
  %count = u32[] get-tuple-element(%state), index=0
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %other = u32[] add(%count, %one)
  %more = u32[] add(%count, %step)
  ROOT %next = (u32[], f32[8]{0}) tuple(%more, %x)
}

%condition (state: (u32[], f32[8])) -> pred[] {
  %state = (u32[], f32[8]{0}) parameter(0)
  %bound = u32[] constant(15)
  %count = u32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%count, %bound), direction=LT
}

ENTRY %main (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %p = (u32[], f32[8]{0}) parameter(0)
  ROOT %loop = (u32[], f32[8]{0}) while(%p), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(("step", "trips"), [(1, 15), (2, 8), (5, 3)])
def test_a_loop_runs_by_its_bound_and_what_its_counter_grows_by(step, trips):
    module = Module(LOOP.replace("STEP", str(step)))
    (loop,) = [i for i in module.computations[module.entry] if i.opcode == "while"]
    assert module.trip_count(loop) == trips
    assert module.visits() == ({"main": 1, "body": trips}, set())


def test_a_loop_without_a_known_bound_has_no_trip_count():
    module = Module(LOOP.replace("direction=LT", "direction=GT"))
    (loop,) = [i for i in module.computations[module.entry] if i.opcode == "while"]
    assert module.trip_count(loop) is None
    assert module.visits()[1] == {"body"}


def test_sizes_of_a_shape_are_in_bytes_and_those_in_another_memory_are_none():
    shape = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, f32[4,5]{1,0:T(8,128)}, pred[7]{0}, s4[3]{0}, u32[]{:S(2)})"
    assert array_sizes(shape) == [12, 80, 7, 2, 4]
    assert memory_sizes(shape) == [0, 80, 7, 2, 0]
    assert list(all_sides(shape)) == [[2, 3], [4, 5], [7], [3], []]
    assert (sides(shape), sides("token[]")) == ([2, 3], [])
