"""Finds the files of an installed package that contains weights.

Such a package is never imported: that would pull in whatever framework its weights were made with.
"""

import importlib.metadata
from pathlib import Path


def installed_folder(package: str, version: str, what: str) -> Path:
    """Returns the folder of an installed package's files.

    Args:
        package: its name on the package index.
        version: of the package, the only one whose weights are known.
        what: is missing without it, for messages.

    Raises:
        ModuleNotFoundError: it is not installed, or another version of it is.
    """
    remedy = install_remedy(package, version)
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{what} are missing: {package} is not installed. {remedy}") from error
    if found.version != version:
        raise ModuleNotFoundError(f"{package} {found.version} is installed: its weights may differ. {remedy}")
    return Path(str(found.locate_file("")))


def install_remedy(package: str, version: str) -> str:
    """Says how to install a package without the framework that it declares."""
    return f"Install it with `pip install --no-deps {package}=={version}`."
