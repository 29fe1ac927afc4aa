import json
import shutil

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.data.emoji_captions.icon_sets import icon_folder, open_icon_set
from nami_jax.data.emoji_captions.raster import draw
from nami_jax.data.emoji_captions.styles import FLUENT, FLUENT_FLAT, NOTO, OPENMOJI, STYLES
from tests.support.paths import ROOT


def pixels(svg: str | None) -> np.ndarray:
    assert svg is not None
    return np.asarray(draw(svg, 64))


def test_icons_are_found_with_and_without_variation_selectors(installed):
    noto = open_icon_set(NOTO)
    assert noto.svg("🌶") == noto.svg("🌶\N{VARIATION SELECTOR-16}") is not None
    assert noto.svg("🦖") is None


def test_a_set_without_a_list_of_characters_takes_another_s(installed):
    assert open_icon_set(FLUENT).svg("🍌") != open_icon_set(FLUENT_FLAT).svg("🍌")


def test_an_alias_is_drawn_mirrored_where_it_says_so(installed):
    noto = open_icon_set(NOTO)
    banana, mirrored, again = (pixels(noto.svg(c)) for c in "🍌🇦🇧")
    assert (banana != mirrored).any()
    np.testing.assert_array_equal(banana[:, ::-1], mirrored)
    np.testing.assert_array_equal(again, banana)


def test_another_version_is_refused(installed, tmp_path, monkeypatch):
    shutil.copytree(installed, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("NAMI_STYLES", str(tmp_path))
    package = tmp_path / "node_modules" / "@iconify-json" / "noto" / "package.json"
    package.write_text('{"version": "1.2.10"}')
    with pytest.raises(ConfigError, match=r"are of version 1\.2\.10, not 1\.2\.9, .* Run `make styles`"):
        open_icon_set(NOTO)


def test_the_packages_are_looked_for_where_make_installs_them(monkeypatch):
    monkeypatch.delenv("NAMI_STYLES", raising=False)
    monkeypatch.setattr("sys.prefix", "/somewhere/.venv")
    assert str(icon_folder()) == "/somewhere/.venv/styles"
    assert "\nSTYLES := $(VENV)/styles\n" in (ROOT / "Makefile").read_text()


def test_npm_s_lock_pins_the_versions_that_are_read_by_hash_and_names_no_registry():
    wanted = json.loads((ROOT / "package.json").read_text())["dependencies"]
    assert wanted == {f"@iconify-json/{s.package}": s.version for s in (*STYLES, OPENMOJI) if s.package}
    lock = (ROOT / "package-lock.json").read_text()
    packages = json.loads(lock)["packages"]
    assert all(packages[f"node_modules/{name}"]["version"] == version for name, version in wanted.items())
    assert all(package["integrity"].startswith("sha512-") for name, package in packages.items() if name)
    assert "://" not in lock
