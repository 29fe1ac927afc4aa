import json

import pytest

from benchmarks import accelerator, accelerator_profile
from benchmarks.accelerator_parts import TINY, Sizes

ABOUT = {"device": "a device", "date": "2026-11-26"}


def write(folder, part, rows):
    (folder / f"{part}.json").write_text(json.dumps({"about": ABOUT, "rows": rows}))


def test_full_sizes_are_nami_2bs_at_1024_pixels():
    sizes = Sizes()
    assert sizes.model.image_tokens(sizes.side, sizes.side) == (256, 1024, 4096)
    assert sizes.lengths == (*(n + sizes.text_tokens for n in (256, 1024, 4096)), 4353)


def test_attention_is_measured_against_float32_at_every_length_and_what_refuses_is_named(tmp_path):
    rows = list(accelerator.PARTS["attention"](TINY, tmp_path))
    assert {(row["length"], row["pass"]) for row in rows} == {
        (length, direction) for length in TINY.lengths for direction in ("forward", "and backward")
    }
    for row in rows:
        if row["by"] in ("xla", "ours"):
            assert 0 < row["error"] < 0.01  # bfloat16's 8 bits
            assert row["bits repeat"] == "yes"
        else:  # cuDNN's kernel, without a GPU
            assert row["refused"]


def test_a_part_that_has_its_file_is_not_measured_again_and_time_that_is_over_leaves_the_rest(tmp_path):
    write(tmp_path, "ceiling", [{"what": "kept"}])
    left = accelerator.run_missing(["ceiling", "attention"], tmp_path, ["--tiny"], minutes=0)
    assert left == ["attention"]
    assert json.loads((tmp_path / "ceiling.json").read_text())["rows"] == [{"what": "kept"}]


def test_a_part_in_a_process_of_its_own_leaves_its_rows_with_device_and_date(tmp_path):
    assert accelerator.run_missing(["ceiling"], tmp_path, ["--tiny"], minutes=5) == []
    result = json.loads((tmp_path / "ceiling.json").read_text())
    assert {"device", "date", "jax", "jaxlib", "seconds"} <= result["about"].keys()
    assert [row["ms"] > 0 for row in result["rows"]] == [True] * 4


def test_a_part_that_fails_is_left_to_the_next_call(tmp_path):
    assert accelerator.run_missing(["attention"], tmp_path, ["--no_such_flag"], minutes=5) == ["attention"]


def test_report_gives_rates_as_shares_of_the_measured_product(tmp_path):
    write(tmp_path, "ceiling", [{"what": "product", "TFLOP/s": 800.0}])
    write(tmp_path, "pytorch", [{"what": "ours", "ms": 1.25, "TFLOP/s": 600.0}, {"what": "left out"}])
    *_, ours, other = accelerator.report(tmp_path).splitlines()
    assert ours.split() == ["ours", "1.25", "600", "75.0%"]
    assert other.split() == ["left", "out"]


def test_kernels_of_an_h100_are_told_apart_by_their_names():
    names = {
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1": "attention",
        "nvjet_sm90_tst_192x192_64x3_1x2_h_bz_coopB_NNN": "matrix products",
        "gemm_fusion_dot_general_5": "matrix products",
        "MemcpyD2D": "copies",
        "input_concatenate_fusion_1": "concatenations",
        "input_reduce_fusion_2": "slices and sums",
        "loop_add_convert_fusion": "elementwise",
    }
    assert {name: accelerator_profile.kind(name) for name in names} == names


def test_kernels_are_added_up_by_kind_and_given_for_one_pass():
    timed = [("loop_add", 0.002), ("nvjet_a", 0.006), ("nvjet_b", 0.004), ("loop_multiply", 0.002)]
    assert accelerator_profile.by_kind(timed, passes=2) == [
        {"kernels": "matrix products", "ms": pytest.approx(5.0), "calls": 1.0},
        {"kernels": "elementwise", "ms": pytest.approx(2.0), "calls": 1.0},
    ]


def test_a_forward_pass_is_measured_by_its_kernels(tmp_path):
    rows = {row["kernels"]: row for row in accelerator.PARTS["profile"](TINY, tmp_path)}
    blocks = TINY.model.double_blocks + TINY.model.stage_single_blocks[-1]
    assert rows["matrix products"]["calls"] > 2 * blocks
    assert all(row["ms"] > 0 for row in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sampling_kernel", "training"])
def test_sampling_and_training_are_measured(part, tmp_path):
    rows = list(accelerator.PARTS[part](TINY, tmp_path))
    rates = [row["TFLOP/s"] for row in rows if "TFLOP/s" in row]
    assert len(rates) == {"sampling_kernel": TINY.model.num_stages + 2, "training": 1}[part]
    assert min(rates) > 0
