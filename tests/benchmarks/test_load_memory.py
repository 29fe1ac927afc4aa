import concurrent.futures
import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load_memory import Case, Measured, RandomTensor, load, report, write_weights
from nami_jax.config import ModelConfig
from nami_jax.weights import open_tensors
from nami_jax.weights.nami_keys import load_nami

# One block of 60 MB in float32: noise of the process's own memory is small against it.
CFG = ModelConfig(
    channels=4, patch_size=2, num_heads=8, rope_axes=(32, 48, 48), double_blocks=0, stage_single_blocks=(1,),
    mlp_ratio=4, text_dim=8, pooled_dim=8,
)  # fmt: skip


def test_a_random_tensor_has_the_pieces_of_its_shape():
    tensor = RandomTensor((5, 3), "float16", np.arange(4.0))
    assert (tensor[1:3].shape, tensor[1:3].dtype) == ((2, 3), np.float16)


def test_written_weights_are_those_of_the_network(tmp_path):
    small = dataclasses.replace(CFG, num_heads=1, rope_axes=(4, 6, 6))
    write_weights(small, "bfloat16", tmp_path, shard_bytes=10**4)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    load_nami(small, open_tensors(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
def test_loading_is_measured_and_within_its_bound(tmp_path):
    write_weights(CFG, "float32", tmp_path, shard_bytes=10**8)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        # In this process the model would lie in memory that earlier tests have freed.
        measured = pool.submit(load, CFG, tmp_path, Case("float32", "float32", 1)).result()
    assert measured.model <= measured.peak * 1.05
    assert measured.peak - measured.model < measured.shard + measured.tensor


def test_report_names_what_is_above_its_bound():
    cases = [Case("float32", "bfloat16", 1), Case("float32", "bfloat16", 8)]
    fits = Measured(model=100_000_000, peak=109_000_000, seconds=2.0, shard=6_000_000, tensor=4_000_000)
    text = report(cases, [fits, fits._replace(peak=111_000_000)])
    assert text.splitlines()[2].split() == ["float32", "to", "bfloat16,", "1", "device", "100", "109", "9", "10", "2.0"]
    assert text.endswith("above its bound: float32 to bfloat16, 8 devices")
    assert report(cases, [fits, fits]).endswith("none")
