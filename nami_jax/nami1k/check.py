"""Says what is missing or odd in a folder of pictures: `python -m nami_jax.nami1k check A/`.

A model's folder holds `ID.png` for every prompt. Prints the ids that have none, pictures that cannot be shown, are of
another size than most, of one colour or twice there, and names of no prompt. Ends with status 1 if a picture is
missing or odd, and 0 if not.
"""

import json
import sys
from pathlib import Path

from absl import flags

from nami_jax.config import ConfigError
from nami_jax.nami1k.picture_folders import FolderCheck, check_folder
from nami_jax.nami1k.prompt_set import read_prompts

SHOWN = 20  # of a list


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("prompts", None, "file of the prompts; the thousand of NAMI-1K if not given")
    flags.DEFINE_bool("json", False, "print JSON, with the lists whole")


def main(argv: list[str]) -> None:
    """Checks the folder and prints what it found."""
    args = flags.FLAGS
    if len(argv) < 2:
        raise ConfigError("the folder is missing. Name one, e.g. `check out/my_model`.")
    found = check_folder(Path(argv[1]), read_prompts(Path(args.prompts) if args.prompts else None))
    print(json.dumps(found.to_dict(), indent=1) if args.json else report(found))
    sys.exit(0 if found.good else 1)


def report(found: FolderCheck) -> str:
    """Returns the findings as text."""
    sizes = ", ".join(f"{count} of {size}" for size, count in found.sizes.items()) or "none that can be shown"
    parts = [f"pictures: {sizes}"]
    for name, items in (("missing", found.missing), ("odd", [f"{k}: {v}" for k, v in found.odd.items()])):
        parts.append(f"{name}: {len(items)}" + "".join(f"\n  {item}" for item in items[:SHOWN]))
    parts.append(f"other names: {len(found.extra)}" + "".join(f"\n  {name!r}" for name in found.extra[:SHOWN]))
    return "\n".join(parts)
