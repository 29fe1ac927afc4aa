"""Where an installed package that carries weights has its files.

Such a package is never imported: that would pull in whatever framework its weights were made with.
"""

import importlib.metadata
from pathlib import Path


def installed_folder(package: str, version: str, what: str) -> Path:
    """Finds the folder that an installed package's files lie in.

    Args:
        package: its name in the index.
        version: of the package, the only one whose weights are known.
        what: is missing without it, for messages.

    Raises:
        ModuleNotFoundError: it is not installed, or in another version.
    """
    remedy = install_remedy(package, version)
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{what} are missing: no {package}. {remedy}") from error
    if found.version != version:
        raise ModuleNotFoundError(f"{package} is {found.version}: its weights may differ. {remedy}")
    return Path(str(found.locate_file("")))


def install_remedy(package: str, version: str) -> str:
    """Says how to install a package without the framework that it declares."""
    return f"Install it with `pip install --no-deps {package}=={version}`."
