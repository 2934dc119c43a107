"""What `omni doctor` says: a line each, with the way out."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from attrs import frozen

Mark = Literal["ok", "--", "!!"]


@frozen
class Finding:
    """One line. mark: `ok`; `--` not there and not needed with these settings; `!!` a fault."""

    mark: Mark
    subject: str
    text: str


def installed(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
