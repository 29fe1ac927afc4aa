import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nami_jax.planning.hlo import AttentionKernels, Traffic, attention, collectives, cycles

# As libtpu writes it, shortened: a loop of 7 whose length it does not note, an all-gather in fragments that are fused
# into the work it is hidden behind, a reduce-scatter as a fusion, and a permutation in the entry.
OF_A_TPU = """\
HloModule jit_loss, is_scheduled=true, entry_computation_layout={(f32[7,256,1024]{2,1,0:T(8,128)})->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%async_collective_fusion.1 (p: bf16[1,256,1024]) -> (bf16[1,1024,1024], u32[]) {
  %p = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=9, dimensions={1}
  ROOT %start = (bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) custom-call(%all-gather.1)
}

%fused_computation.2 (q: bf16[1,256,1024]) -> bf16[1,1024,1024] {
  %q = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%q), channel_id=9, dimensions={1}
}

%all-reduce-scatter.3 (input: f32[1024,1024]) -> f32[256,1024] {
  %input = f32[1024,1024]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.5 = f32[1024,1024]{1,0:T(8,128)} all-reduce(%input), channel_id=6, to_apply=%add
  ROOT %slice = f32[256,1024]{1,0:T(8,128)} dynamic-slice(%all-reduce.5), dynamic_slice_sizes={256,1024}
}

%body (state: (s32[], bf16[1,256,1024], f32[1024,1024])) -> (s32[], bf16[1,256,1024], f32[1024,1024]) {
  %state = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[1024,1024]{1,0}) parameter(0)
  %shard = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %grad = f32[1024,1024]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %f = (bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%shard), calls=%async_collective_fusion.1
  %g = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} fusion(%shard), kind=kCustom, calls=%fused_computation.2
  %h = f32[256,1024]{1,0:T(8,128)} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %next = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0}, f32[1024,1024]{1,0}) tuple(%state, %shard, %grad)
}

%condition (state.1: (s32[], bf16[1,256,1024], f32[1024,1024])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(7)
  %state.1 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[1024,1024]{1,0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %constant.1), direction=LT
}

ENTRY %main (w: f32[8,72]) -> f32[] {
  %w = f32[8,72]{1,0:T(8,128)} parameter(0)
  %while.3 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0}) while(%init), condition=%condition, body=%body
  %permuted = (f32[8,72]{1,0:S(1)}, f32[8,72]{1,0}, u32[], u32[]) collective-permute-start(%w), channel_id=7
  %collective-permute-done.1 = f32[8,72]{1,0:T(8,128)} collective-permute-done(%permuted)
  ROOT %all-reduce.2 = f32[]{:T(128)} all-reduce(%loss), channel_id=8, to_apply=%add
}
"""


def spread(*spec):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P(*spec))


def compiled_text(function, array):
    text = function.lower(array).compile().as_text()
    assert text is not None
    return text


def collectives_of(function, shape, spec=("d",), out=("d",)):
    """Compiles a function of each device's part of a float32 array, for eight, and reads its collectives."""
    mapped = jax.shard_map(function, mesh=spread().mesh, in_specs=P(*spec), out_specs=P(*out))
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread(*spec))
    return collectives(compiled_text(jax.jit(mapped), array))


def test_all_gather_carries_the_whole_array():
    copied = jax.jit(lambda x: x, in_shardings=spread("d"), out_shardings=spread())
    text = compiled_text(copied, jax.ShapeDtypeStruct((64, 12), jnp.float32))
    assert collectives(text).traffic == {"all-gather": Traffic(1, 64 * 12 * 4)}


def test_reduce_scatter_carries_what_goes_in():
    found = collectives_of(lambda x: jax.lax.psum_scatter(x, "d", tiled=True), (64, 16))
    assert found.traffic == {"reduce-scatter": Traffic(1, 8 * 16 * 4)}


@pytest.mark.parametrize("lengths", [(5,), (3, 4)])
def test_collectives_in_a_scan_count_as_often_as_it_runs(lengths):
    def repeated(x, lengths=lengths):
        if not lengths:
            return jnp.tanh(jax.lax.pmean(x, "d") + x)
        return jax.lax.scan(lambda x, _: (repeated(x, lengths[1:]), None), x, length=lengths[0])[0]

    times = 5 if lengths == (5,) else 12
    found = collectives_of(repeated, (8, 16))
    assert found.traffic == {"all-reduce": Traffic(times, times * 16 * 4)}
    assert found.uncounted_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    def until_small(x):
        return jax.lax.while_loop(lambda x: x.max() > 1, lambda x: jax.lax.psum(x, "d") / 9, x)

    found = collectives_of(until_small, (4,), spec=(), out=())
    assert found.traffic["all-reduce"].count == 1
    assert found.uncounted_loops == 1


def test_a_program_of_one_device_has_none():
    text = compiled_text(jax.jit(jnp.sin), jax.ShapeDtypeStruct((4,), jnp.float32))
    assert collectives(text).traffic == {}


def test_a_tpus_text_counts_fragments_once_and_fusions_by_what_they_do():
    found = collectives(OF_A_TPU)
    assert found.traffic == {
        "all-gather": Traffic(7, 7 * 1024 * 1024 * 2),
        "reduce-scatter": Traffic(7, 7 * 1024 * 1024 * 4),
        "collective-permute": Traffic(1, 8 * 72 * 4),
        "all-reduce": Traffic(1, 4),
    }
    assert found.uncounted_loops == 0


# As XLA for NVIDIA GPUs writes it, shortened: cuDNN's kernel in a loop and after it, weights inside a fusion and, of
# 96 queries and 192 keys, in memory.
OF_A_GPU = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[2,192,4,64]{3,2,1,0})->bf16[2,192,4,64]{3,2,1,0}}

%fused_computation (p: bf16[2,192,4,64]) -> f32[2,4,192] {
  %p = bf16[2,192,4,64]{3,2,1,0} parameter(0)
  %logits = f32[2,4,192,192]{3,2,1,0} broadcast(%p), dimensions={}
  ROOT %most = f32[2,4,192]{2,1,0} reduce(%logits, %zero), dimensions={3}, to_apply=%max
}

%body (state: (s32[], bf16[2,192,4,64])) -> (s32[], bf16[2,192,4,64]) {
  %q = bf16[2,192,4,64]{3,2,1,0} get-tuple-element(%state), index=1
  %sdpa.1 = (bf16[2,4,192,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %next = (s32[], bf16[2,192,4,64]{3,2,1,0}) tuple(%n, %q)
}

ENTRY %main (w: bf16[2,192,4,64]) -> bf16[2,192,4,64] {
  %w = bf16[2,192,4,64]{3,2,1,0} parameter(0)
  %while = (s32[], bf16[2,192,4,64]{3,2,1,0}) while(%init), condition=%condition, body=%body
  %most = f32[2,4,192]{2,1,0} fusion(%w), kind=kInput, calls=%fused_computation
  %product = bf16[192,192]{1,0} custom-call(%w, %w), custom_call_target="__cublas$lt$matmul"
  %scores = (bf16[2,4,96,192]{3,2,1,0}, s8[1024]{0}) custom-call(%w, %w), custom_call_target="__cublas$gemm"
  ROOT %sdpa.2 = bf16[2,4,192,64]{3,1,2,0} custom-call(%w, %w), custom_call_target="__cudnn$fmhaSoftmaxBackward"
}
"""


def test_kernels_of_a_gpu_are_counted_and_weights_in_fusions_are_not():
    assert attention(OF_A_GPU, [(192, 192)]) == AttentionKernels({"cuDNN's": 2}, ())
    assert attention(OF_A_GPU, [(192, 192), (96, 192)]).weights == ("bf16[2,4,96,192]",)


def test_a_tpus_kernels_are_known_by_their_names():
    call = '  %splash_mha_{}.1 = bf16[4,1280,128]{{2,1,0}} custom-call(%q), custom_call_target="tpu_custom_call"\n'
    text = "ENTRY %main (q: f32[4,8]) -> f32[4,8] {\n" + call.format("fwd_residuals") + call.format("dq_no_residuals")
    other = '  %my_kernel.1 = f32[8,8]{1,0} custom-call(%q), custom_call_target="tpu_custom_call"\n'
    assert attention(text + other, [(1280, 1280)]) == AttentionKernels({"splash": 2}, ())


def test_attention_at_once_holds_its_weights_and_one_query_at_a_time_does_not():
    def attend(x):
        return jax.nn.dot_product_attention(x[:, :12], x, x)

    def in_turns(x):
        return jax.lax.map(lambda q: jax.nn.dot_product_attention(q[:, None], x, x), jnp.moveaxis(x, 1, 0))

    x = jnp.ones((2, 24, 3, 8))
    twelve, each = compiled_text(jax.jit(attend), x), compiled_text(jax.jit(in_turns), x)
    assert "f32[2,3,12,24]" in attention(twelve, [(12, 24)]).weights
    assert attention(twelve, [(24, 24)]) == attention(each, [(24, 24)]) == AttentionKernels({}, ())


WITH_CYCLES = """\
%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%state), index=1
  %dot.1 = f32[8]{0} fusion(%x), kind=kOutput, calls=%f, metadata={op_name="jit(f)/while/body/dot_general"}, \
backend_config={"estimated_cycles":"100"}
  ROOT %pair = (s32[], f32[8]{0}) tuple(%x, %dot.1)
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (p: (s32[], f32[8])) -> f32[8] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %loop = (s32[], f32[8]{0}) while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %y = f32[8]{0} get-tuple-element(%loop), index=1
  %copy.2 = f32[8]{0} copy(%y), backend_config={"estimated_cycles":"30"}
  ROOT %dot.3 = f32[8]{0} fusion(%copy.2), kind=kOutput, calls=%f, metadata={op_name="jit(f)/dot_general"}, \
backend_config={"estimated_cycles":"5"}
}
"""


def test_cycles_are_summed_by_operation_and_those_in_a_loop_count_as_often_as_it_runs():
    assert cycles(WITH_CYCLES) == {"dot_general (fusion)": 705, "? (copy)": 30}
