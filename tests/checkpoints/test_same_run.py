from pathlib import Path

import pytest

from nami_jax.checkpoints.same_run import require_same_networks
from nami_jax.config import ConfigError

KEPT = {"autoencoder": "1" * 64, "text_encoder": "minilm-0"}


@pytest.mark.parametrize(("name", "field"), [("autoencoder", "autoencoder.folder"), ("text_encoder", "text.folder")])
def test_another_network_is_named_with_its_field_and_the_remedy(name, field):
    with pytest.raises(ConfigError) as caught:
        require_same_networks(KEPT, KEPT | {name: "2" * 64}, Path("runs/mine"))
    words = name.replace("_", " ")
    assert str(caught.value) == (
        f"{field} = '{'2' * 24}': this is the fingerprint of another {words} than the run in runs/mine was trained "
        f"with, {KEPT[name][:24]}. Put that {words} back, set the folder where it is, or train anew in another "
        "--workdir."
    )


def test_what_one_side_does_not_know_is_not_compared():
    require_same_networks({}, KEPT, Path())
    require_same_networks(KEPT, {}, Path())
    require_same_networks(KEPT, {"autoencoder": KEPT["autoencoder"], "other": "x"}, Path())
