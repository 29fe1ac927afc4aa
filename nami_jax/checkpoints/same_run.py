"""Whether a run that continues is the same run: its settings, and the networks that it uses and does not train.

With another autoencoder or text encoder of the same sizes everything would run, and draw other pictures. So a run keeps
their fingerprints.
"""

from collections.abc import Mapping
from pathlib import Path

from nami_jax.config import Settings, fixed_fields, require

AUTOENCODER, TEXT_ENCODER = "autoencoder", "text_encoder"
FIELDS = {AUTOENCODER: "autoencoder.folder", TEXT_ENCODER: "text.folder"}  # of the config, where each comes from
SHOWN = 24  # letters of a fingerprint


def require_same_networks(kept: Mapping[str, str], found: Mapping[str, str], place: Path) -> None:
    """Compares fingerprints by the networks' names; a name that one side lacks is not compared.

    Args:
        kept: with the run; none by earlier versions.
        found: of the networks that are there now.
        place: of the run.

    Raises:
        ConfigError: one is another.
    """
    for name in kept.keys() & found.keys():
        words = name.replace("_", " ")
        require(
            kept[name] == found[name],
            field=FIELDS[name],
            value=found[name][:SHOWN],
            rule=f"this is the fingerprint of another {words} than the run in {place} was trained with, "
            f"{kept[name][:SHOWN]}",
            remedy=f"Put that {words} back, set the folder where it is, or train anew in another --workdir",
        )


def require_same_run(saved: Settings, current: Settings, folder: Path) -> None:
    """Checks that a run continues with the settings it was started with. How it is computed, and how long, may change.

    Raises:
        ConfigError: it does not; the first differing field is named.
    """
    saved_fields, fields = saved.located().to_dict(), current.located().to_dict()
    for section, names in fixed_fields(type(current)).items():
        for name in names:
            value = fields[section][name]
            require(
                saved_fields[section][name] == value,
                field=f"{section}.{name}",
                value=value,
                rule=f"the run in {folder} was started with {saved_fields[section][name]!r}",
                remedy="Set that value, or use another --workdir",
            )
