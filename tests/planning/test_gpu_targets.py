import importlib.metadata

import pytest

from nami_jax.config import ConfigError
from nami_jax.monitoring.chips import GIB, find_chip
from nami_jax.planning.gpu_targets import CARDS, OLD_SHARE, SHARE, memory_bytes, memory_share, target_text
from nami_jax.planning.hardware import find_hardware


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_every_card_has_a_rate_and_a_price_and_less_memory_than_on_its_box(card):
    chip = find_chip(card.kind)
    assert chip is not None
    assert 0.97 * chip.memory_bytes < memory_bytes(card) < chip.memory_bytes


@pytest.mark.parametrize(
    ("name", "capability", "block"), [("a100", 8, 163), ("h100", 9, 227)]
)  # KiB, of the CUDA programming guide
def test_a_target_names_the_cards_figures_and_cudnn(name, capability, block):
    text = target_text(CARDS[name], "9.28.1.4")
    assert f"cuda_compute_capability: {{ major: {capability} }}" in text
    assert f"shared_memory_per_block_optin: {block * 1024}\n" in text
    assert f"device_memory_size: {round(79.1 * GIB)}\n" in text
    assert "dnn_version_info { major: 9 minor: 28 patch: 1 }\n" in text
    assert text.endswith(f'device_description_str: "{CARDS[name].kind}"\n')


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match=r"jax-cuda13-plugin is not installed .*nvidia-cudnn-cu13 that requ"):
        find_hardware("h100:8")


@pytest.mark.parametrize(
    ("variables", "share"), [({}, 0.75), ({SHARE: "0.9"}, 0.9), ({SHARE: ""}, 0.75), ({OLD_SHARE: ".8"}, 0.8)]
)
def test_share_of_a_card_is_what_jax_would_read(monkeypatch, variables, share):
    for name in (SHARE, OLD_SHARE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory_share() == share


@pytest.mark.parametrize("value", ["90", "0", "-0.5", "most", "nan"])
def test_what_is_no_share_is_refused(monkeypatch, value):
    monkeypatch.delenv(OLD_SHARE, raising=False)
    monkeypatch.setenv(SHARE, value)
    with pytest.raises(ConfigError, match=rf"{SHARE} = '{value}': must be above 0 and at most 1\. Set e\.g\. 0\.9"):
        memory_share()
