"""The values that the other configs start from. Not a run of its own. `configs/README.md` explains every field.

Other files take `get_config()` from here and set only what differs. The fields are declared, with their rules, in
`nami_jax/config/`. `python -m configs.base > configs/README.md` regenerates the list.
"""

from ml_collections import ConfigDict

from nami_jax.config import Config
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.config.listing import base_config, page

HEAD = """# The fields of a config

Written by `python -m configs.base > configs/README.md` from the declarations in `nami_jax/config/`; a test compares.

A field is set in a file here, or on the command line: `--config.train.steps=2000`. A run that is continued may
change the fields marked so; the others define it.

"""


def get_config() -> ConfigDict:
    """Returns the defaults: the paper's three stages, phases and times; sizes and data are set by the other configs."""
    return base_config(Config)


def explained() -> str:
    """Returns the content of `configs/README.md`."""
    kinds = {"A flow (`configs/base.py`)": Config, "An autoencoder (`configs/autoencoder_emoji.py`)": AutoencoderRun}
    return HEAD + page(kinds)


if __name__ == "__main__":
    print(explained(), end="")
