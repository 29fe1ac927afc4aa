import os
import sys

import jax
import pytest
from jax.errors import JaxRuntimeError

from nami_jax.config import ConfigError
from nami_jax.planning.hardware import HOST, Overflow, find_hardware, find_overflow


def test_devices_of_the_host_share_its_memory():
    host = find_hardware(HOST)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host.devices == tuple(jax.devices())
    assert host.memory_limit == memory // 8
    assert host.chip is None


@pytest.mark.parametrize(
    ("topology", "rule"),
    [
        ("v9:2x2", "is not a topology"),
        ("16", "is not a topology"),
        ("v5e", "v5e has 2 sides"),
        ("v5e:4x4x4", "v5e has 2 sides"),
        ("v5p:4x4", "v5p has 3 sides"),
        ("v6e:0x8", "v6e has 2 sides"),
        ("gb10:8", "is not a topology"),
        ("H100:8", "is not a topology"),
    ],
)
def test_unknown_topologies_are_refused_with_examples(topology, rule):
    with pytest.raises(ConfigError, match=rf"topology = '{topology}': {rule}\. Pass host, .* v5e:16x16, v5p:4x4x4"):
        find_hardware(topology)


@pytest.mark.parametrize(
    "topology", ["h100", "h100:", "h100:0", "h100:8x", "h100:8x0", "h100:8x8x8", "h100:8x99999", "h100:-8"]
)
def test_gpus_in_another_form_are_refused_with_examples(topology):
    rule = "h100 is followed by the GPUs of a host, and by x and the hosts where there are several"
    with pytest.raises(
        ConfigError, match=rf"topology = '{topology}': {rule}\. Pass a card \(a100-40gb, .*h100:8, h200:8x4"
    ):
        find_hardware(topology)


def test_more_gpus_than_a_host_has_are_refused_with_as_many_on_several_hosts():
    with pytest.raises(ConfigError, match=r"at most 8 GPUs\. Pass GPUs of a host x hosts, e\.g\. a100:8x4"):
        find_hardware("a100:16x2")


def test_missing_libtpu_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ModuleNotFoundError, match="pip install the libtpu"):
        find_hardware("v5e:2x2")


@pytest.mark.parametrize(
    ("message", "overflow"),
    [
        (
            "Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm. Exceeded hbm capacity by 1.50G.",
            Overflow(round(17.25 * 2**30), round(15.75 * 2**30)),
        ),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (8.00T) exceeds available HBM "
            "(512.00M).",
            Overflow(8 * 2**40, 512 * 2**20),
        ),
    ],
)
def test_the_compilers_messages_about_memory_are_read(message, overflow):
    assert find_overflow(JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")) == overflow


def test_other_errors_of_the_compiler_are_raised_again():
    with pytest.raises(JaxRuntimeError, match="INTERNAL: no"):
        find_overflow(JaxRuntimeError("INTERNAL: no"))
