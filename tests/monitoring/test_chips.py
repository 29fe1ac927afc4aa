import itertools

import jax
import pytest

from nami_jax.monitoring.chips import CHIPS, find_chip


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"),
     ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-40GB", "A100 40GB"), ("NVIDIA H200", "H200")],
)  # fmt: skip
def test_chip_is_found_by_jax_name_of_it(device_kind, name):
    chip = find_chip(device_kind)
    assert chip is not None
    assert chip.name == name


def test_devices_outside_the_table_have_no_chip():
    assert find_chip(jax.devices()[0].device_kind) is None
    assert find_chip("TPU v4 lite") is None


def test_no_device_kind_belongs_to_two_chips():
    kinds = list(itertools.chain.from_iterable(chip.device_kinds for chip in CHIPS))
    assert len(kinds) == len(set(kinds))
    assert len({chip.name for chip in CHIPS}) == len(CHIPS)
