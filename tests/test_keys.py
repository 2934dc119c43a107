"""Keys for sockets between hosts: made once, used by both ends, secret."""

from pathlib import Path

import pytest
from attrs import evolve

from omni.errors import SettingsError
from omni.keys import make_keys
from omni.settings import FabricSettings
from omni.wire import broker_keys, endpoints


@pytest.fixture
def fabric(tmp_path: Path) -> FabricSettings:
    return evolve(FabricSettings(), run_dir=str(tmp_path), broker_url="tcp://127.0.0.1")


def test_made_keys_are_the_ones_that_sockets_use(fabric: FabricSettings) -> None:
    make_keys(fabric)

    keys = broker_keys(fabric)
    assert endpoints(fabric).uses_curve
    assert len(keys.public) == len(keys.secret) == len(keys.other) == 40  # Z85 of 32 bytes


def test_secrets_are_for_their_owner_alone(fabric: FabricSettings) -> None:
    folder = make_keys(fabric)

    secrets = list(folder.glob("*.key_secret"))
    assert len(secrets) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)


def test_keys_are_not_made_over(fabric: FabricSettings) -> None:
    folder = make_keys(fabric)
    before = (folder / "broker.key_secret").read_bytes()

    with pytest.raises(SettingsError, match="holds keys already"):
        make_keys(fabric)

    assert (folder / "broker.key_secret").read_bytes() == before
