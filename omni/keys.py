"""`omni keys`: the CURVE keys that broker, webs and workers need between hosts."""

from pathlib import Path

from zmq.auth import create_certificates

from omni.errors import SettingsError
from omni.settings import FabricSettings
from omni.wire import keys_dir

#: One pair for the broker, and one that all webs and workers share.
NAMES = ("broker", "peer")


def make_keys(fabric: FabricSettings) -> Path:
    """Make both pairs in the run directory's `keys`, and return that.

    Raises: SettingsError where there are some: new ones would lock out every other host.
    """
    folder = keys_dir(fabric)
    if there := sorted(folder.glob("*.key*")):
        raise SettingsError(
            f"{folder} holds keys already ({there[0].name}, ...): copy them to the other hosts, or "
            "delete the directory to make new ones"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in NAMES:
        create_certificates(folder, name)
    for path in folder.glob("*.key_secret"):
        path.chmod(0o600)
    return folder
