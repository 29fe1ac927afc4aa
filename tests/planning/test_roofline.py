"""Programs whose least time is worked out by hand, on a chip with one FLOP, byte and byte of links a second."""

import jax
import jax.numpy as jnp
import pytest

from nami_jax.monitoring.chips import Chip
from nami_jax.planning.roofline import least_seconds, limit, roofline
from nami_jax.planning.work import Work

UNIT = Chip("unit", (), 1.0, 1, 1.0, 1.0, 0.0)

# Two negations of 100 bytes (200 seconds each) between a collective's start and its end, then one that waits at once.
SENDING = """\
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

ENTRY %main (x: f32[25]) -> f32[25] {
  %x = f32[25]{0} parameter(0)
  %start = (f32[25]{0}, f32[SENT]{0}) all-gather-start(%x), channel_id=1, dimensions={0}
  %a = f32[25]{0} negate(%x), metadata={op_name="jit(f)/neg"}
  %b = f32[25]{0} negate(%a), metadata={op_name="jit(f)/neg"}
  %done = f32[SENT]{0} all-gather-done(%start)
  ROOT %last = f32[25]{0} all-reduce(%b), channel_id=2, to_apply=%add
}
"""


@pytest.mark.parametrize(("sent", "waits"), [(75, 0), (100, 0), (150, 200)])
def test_a_collective_is_hidden_behind_what_runs_before_it_is_waited_for(sent, waits):
    bound = roofline(SENDING.replace("SENT", str(sent)), UNIT)
    assert (bound.products, bound.memory, bound.operations) == (0, 400, 400)
    assert bound.sent == 4 * sent + 100
    assert bound.exposed == waits + 100  # and the all of the last one
    assert bound.seconds == 500 + waits
    assert bound.by_operation == {"neg (negate)": (400, Work(0, 400))}


def test_two_collectives_under_way_share_the_links():
    second = "  %start.2 = (f32[25]{0}, f32[75]{0}) all-gather-start(%x), channel_id=3, dimensions={0}\n"
    waits = "  %done.2 = f32[75]{0} all-gather-done(%start.2)\n"
    text = (
        SENDING.replace("SENT", "75")
        .replace("  %a = ", second + "  %a = ")
        .replace("  ROOT %last", waits + "  ROOT %last")
    )
    bound = roofline(text, UNIT)
    assert bound.sent == 300 + 300 + 100
    assert bound.exposed == 600 - 400 + 100


# As libtpu writes it: fragments of one collective in three fusions, the middle one with work of its own, in a loop.
FRAGMENTS = """\
%begin (p: f32[10]) -> (f32[40], u32[]) {
  %p = f32[10]{0} parameter(0)
  %g.1 = f32[40]{0} all-gather(%p), channel_id=9, dimensions={0}
  ROOT %call.1 = (f32[40]{0}, u32[]{:S(2)}) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%amid (q: f32[40], x: f32[10]) -> (f32[10], f32[40]) {
  %q = f32[40]{0} parameter(0)
  %x = f32[10]{0} parameter(1)
  %g.2 = f32[40]{0} all-gather(%q), channel_id=9, dimensions={0}
  %n = f32[10]{0} negate(%x)
  ROOT %both = (f32[10]{0}, f32[40]{0}) tuple(%n, %g.2)
}

%end (r: f32[40]) -> f32[40] {
  %r = f32[40]{0} parameter(0)
  %g.3 = f32[40]{0} all-gather(%r), channel_id=9, dimensions={0}
  ROOT %call.3 = f32[40]{0} custom-call(%g.3), custom_call_target="AsyncCollectiveDone"
}

%body (state: (s32[], f32[10])) -> (s32[], f32[10]) {
  %state = (s32[], f32[10]{0}) parameter(0)
  %x = f32[10]{0} get-tuple-element(%state), index=1
  %f.1 = (f32[40]{0}, u32[]{:S(2)}) fusion(%x), calls=%begin
  %g = f32[40]{0} get-tuple-element(%f.1), index=0
  %f.2 = (f32[10]{0}, f32[40]{0}) fusion(%g, %x), calls=%amid
  %f.3 = f32[40]{0} fusion(%g), calls=%end
  ROOT %next = (s32[], f32[10]{0}) tuple(%n, %x)
}

%condition (state: (s32[], f32[10])) -> pred[] {
  %state = (s32[], f32[10]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (p: (s32[], f32[10])) -> (s32[], f32[10]) {
  %p = (s32[], f32[10]{0}) parameter(0)
  ROOT %loop = (s32[], f32[10]{0}) while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_fragments_of_a_collective_hide_it_behind_the_work_in_their_fusions():
    bound = roofline(FRAGMENTS, UNIT)
    assert bound.sent == 3 * 160
    assert bound.operations == 3 * 80  # ten numbers read and written
    assert bound.exposed == 3 * (160 - 80)
    assert list(bound.by_operation) == ["? (fusion)"]


def test_copies_beside_the_operations_bound_by_the_memory_they_share():
    copies = "  %c = (f32[99]{0}, f32[99]{0:S(1)}, u32[]{:S(2)}) copy-start(%x)\n  %d = f32[99]{0:S(1)} copy-done(%c)\n"
    text = SENDING.replace("SENT", "25").replace("  %a = ", copies + "  %a = ")
    bound = roofline(text, UNIT)
    assert (bound.operations, bound.memory) == (400, 400 + 396)
    assert bound.seconds == 796


def test_the_limit_is_the_slower_of_products_and_memory():
    chip = Chip("c", (), 10.0, 1, 2.0, 1.0, 0.0)
    assert (limit(Work(100, 10), chip), least_seconds(Work(100, 10), chip)) == ("products", 10)
    assert (limit(Work(10, 10), chip), least_seconds(Work(10, 10), chip)) == ("memory", 5)


def test_both_branches_of_a_conditional_are_not_counted():
    def either(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x + 1.0, x) + y

    x = jnp.ones((64, 64))
    text = jax.jit(either).lower(x, x).compile().as_text()
    assert text is not None
    assert roofline(text, UNIT).products == 2 * 64**3
