import jax
import jax.numpy as jnp
import pytest
from jax import lax

from nami_jax.planning.hlo_module import Module
from nami_jax.planning.roofline import roofline
from nami_jax.planning.work import Work, attention_kernel, is_collective, work
from tests.planning.test_roofline import UNIT


def worked(text, name):
    """Returns the work of one instruction of a program's entry."""
    module = Module(text)
    instructions = {i.name: i for i in module.computations[module.entry]}
    return work(module, instructions[name], {name: i.shape for name, i in instructions.items()})


def compiled_text(function, *arrays):
    text = jax.jit(function).lower(*arrays).compile().as_text()
    assert text is not None
    return text


def total(function, *arrays):
    """Returns the FLOPs and bytes of a compiled function: seconds at one of each per second."""
    bound = roofline(compiled_text(function, *arrays), UNIT)
    return bound.products, bound.memory


def test_a_product_is_two_flops_for_each_element_summed_and_its_three_arrays():
    x, y = jnp.ones((8, 24)), jnp.ones((24, 16))
    assert total(jnp.dot, x, y) == (2 * 8 * 24 * 16, 4 * (8 * 24 + 24 * 16 + 8 * 16))


def test_a_loop_counts_as_often_as_it_runs_and_reads_slices_of_what_it_scans():
    def through(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    x, weights = jnp.ones((8, 256)), jnp.ones((5, 256, 256))
    flops, size = total(through, x, weights)
    assert flops == 5 * 2 * 8 * 256 * 256
    once = 4 * weights.size
    assert once < size < 4 * once  # a slice is copied and read; five times all weights would be over five times `once`


@pytest.mark.parametrize(
    ("padding", "stride", "spread", "dilation", "flipped"),
    [
        ("VALID", (1, 1), (1, 1), (1, 1), False),
        ("SAME", (1, 1), (1, 1), (1, 1), True),
        ("SAME", (2, 3), (1, 1), (1, 1), False),
        (((2, 2), (4, 1)), (1, 2), (2, 1), (1, 2), True),
    ],
)
def test_a_convolution_counts_as_xla_counts_it_without_its_padding(padding, stride, spread, dilation, flipped):
    def convolve(x, w):
        w = w[::-1, ::-1] if flipped else w
        return lax.conv_general_dilated(
            x, w, stride, padding, spread, dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, w = jnp.ones((2, 9, 11, 8)), jnp.ones((3, 4, 8, 16))
    counted = jax.jit(convolve).lower(x, w).cost_analysis()
    assert counted is not None
    text = compiled_text(convolve, x, w)
    assert "convolution(" in text
    assert roofline(text, UNIT).products == counted["flops"]


# As libtpu and XLA for NVIDIA GPUs write kernels, shortened: splash for several images and for one, whose axis is gone.
KERNELS = """\
ENTRY %main (q: bf16[2,4,384,128]) -> bf16[2,4,384,128] {
  %mask = s8[1,1,1]{2,1,0} parameter(0)
  %q = bf16[2,4,384,128]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[2,4,512,128]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %sums = f32[2,4,1,384]{3,2,1,0} parameter(3)
  %one = bf16[4,384,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(4)
  %u = bf16[2,384,4,64]{3,2,1,0} parameter(5)
  %a = f32[8,32]{1,0} parameter(6)
  %splash_mha_fwd_residuals.1 = (f32[2,384,128]{2,1,0}, bf16[2,4,384,128]{3,2,1,0}) custom-call(%mask, %q, %k, %k), \
custom_call_target="tpu_custom_call"
  %splash_mha_dq_no_residuals.2 = bf16[2,4,384,128]{3,2,1,0} custom-call(%q, %k, %k, %sums, %q), \
custom_call_target="tpu_custom_call"
  %splash_mha_dkv_no_residuals.3 = bf16[4,384,128]{2,1,0} custom-call(%one, %one), custom_call_target="tpu_custom_call"
  %forward = (bf16[2,4,384,64]{3,1,2,0}, u8[9]{0}) custom-call(%u, %u, %u), custom_call_target="__cudnn$fmhaSoftmax", \
backend_config={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "384", "384"]}}
  %gradient = bf16[2,4,384,64]{3,1,2,0} custom-call(%u, %u, %u), custom_call_target="__cudnn$fmhaSoftmaxBackward", \
backend_config={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "384", "384"]}}
  %gemm = (f32[8,16]{1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", \
backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}
  ROOT %other = bf16[9]{0} custom-call(%q), custom_call_target="AllocateBuffer"
}
"""


def test_kernels_count_by_the_sizes_of_their_queries_and_keys():
    pairs = 2 * 2 * 4 * 384 * 512 * 128
    queries, keys = 2 * 2 * 4 * 384 * 128, 2 * 2 * 4 * 512 * 128
    assert worked(KERNELS, "splash_mha_fwd_residuals.1") == Work(2 * pairs, 2 * queries + 2 * keys)
    assert worked(KERNELS, "splash_mha_dq_no_residuals.2").flops == 3 * pairs
    assert worked(KERNELS, "splash_mha_dkv_no_residuals.3") == Work(4 * 2 * 4 * 384 * 384 * 128, 2 * 4 * 384 * 128)
    assert worked(KERNELS, "forward").flops == 2 * 2 * 2 * 4 * 384 * 384 * 64
    assert worked(KERNELS, "gradient").flops == 5 * 2 * 2 * 4 * 384 * 384 * 64
    assert worked(KERNELS, "gemm") == Work(2 * 8 * 16 * 32, 4 * (8 * 32 + 8 * 16))  # without its workspace
    assert worked(KERNELS, "other") == Work(0, 0)


def test_kernels_and_collectives_are_known_by_their_instructions():
    module = Module(
        KERNELS + "\n%c (x: f32[8]) -> f32[8] {\n  ROOT %s = f32[8]{0} all-gather-start(%x), channel_id=1\n}"
    )
    found = [kernel for i in module.computations["main"] if (kernel := attention_kernel(i))]
    assert found[:3] == ["splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"]
    assert found[3:] == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert is_collective(module.computations["c"][0])
    assert not any(is_collective(i) for i in module.computations["main"])


FUSED = """\
%sliced (p: f32[6,100], i: s32[], w: f32[100]) -> (f32[100], f32[6,100]) {
  %p = f32[6,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %w = f32[100]{0} parameter(2)
  %row = f32[1,100]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,100}
  %flat = f32[100]{0} bitcast(%row)
  %sum = f32[100]{0} add(%flat, %w)
  %back = f32[1,100]{1,0} bitcast(%sum)
  %all = f32[6,100]{1,0} dynamic-update-slice(%p, %back, %i, %i)
  ROOT %both = (f32[100]{0}, f32[6,100]{1,0}) tuple(%sum, %all)
}

ENTRY %main (p: f32[6,100]) -> f32[100] {
  %p = f32[6,100]{1,0} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %near = f32[100]{0:T(128)S(1)} parameter(2)
  %fusion = (f32[100]{0:S(1)}, f32[6,100]{1,0}) fusion(%p, %i, %near), kind=kLoop, calls=%sliced
  %fetched = (f32[100]{0}, f32[100]{0:S(1)}, u32[]{:S(2)}) copy-start(%x)
  ROOT %update = f32[6,100]{1,0} dynamic-update-slice(%p, %row, %i, %i)
}
"""


def test_a_fusion_reads_slices_writes_in_place_and_what_is_in_fast_memory_costs_nothing():
    assert worked(FUSED, "fusion") == Work(0, 400 + 400)  # a row of the first operand, and a row of the second result
    assert worked(FUSED, "fetched") == Work(0, 400)
