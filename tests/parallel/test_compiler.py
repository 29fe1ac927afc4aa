from types import SimpleNamespace

import jax
import pytest

from nami_jax.parallel.compiler import compiler_options


@pytest.mark.parametrize(
    ("platform", "kind", "told"),
    [("gpu", "NVIDIA H100 80GB HBM3", True), ("gpu", "AMD MI300", False), ("tpu", "TPU v5e", False)],
)
def test_triton_makes_no_products_on_nvidia_gpus(platform, kind, told):
    options = compiler_options(SimpleNamespace(platform=platform, device_kind=kind))
    assert options == ({"xla_gpu_enable_triton_gemm": False} if told else {})


def test_the_options_are_known_to_the_compiler():
    options = compiler_options(SimpleNamespace(platform="gpu", device_kind="NVIDIA A100"))
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="o such compile option"):
        jax.jit(lambda x: x + 1, compiler_options=dict.fromkeys((f"{name}s" for name in options), False))(1)
