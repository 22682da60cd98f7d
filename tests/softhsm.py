"""SoftHSM: a PKCS#11 token in files, in a folder of the test's own."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

import pytest

PIN: Final = "1234-of-these-tests"
LABEL: Final = "keyosk"
_PLACES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


class SoftHsm:
    """One token, empty. Its settings go into the environment, as SoftHSM reads them there."""

    def __init__(self, folder: Path) -> None:
        self.module = _module()
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.initialise()

    @property
    def settings(self) -> dict[str, str]:
        """Keyosk's settings for it, without their prefix."""
        return {"pkcs11_module": self.module, "pkcs11_token": LABEL, "pkcs11_pin": PIN}

    @property
    def variables(self) -> dict[str, str]:
        """Keyosk's and its own settings, for a process."""
        mine = {"SOFTHSM2_CONF": str(self.configuration)}
        return mine | {f"KEYOSK_{name.upper()}": text for name, text in self.settings.items()}

    def initialise(self, pin: str = PIN) -> None:
        """Make an empty token."""
        pins = ("--pin", pin, "--so-pin", f"so-{PIN}")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", LABEL, *pins],
            env={**os.environ, "SOFTHSM2_CONF": str(self.configuration)},
            check=True,
            capture_output=True,
        )

    def take_away(self) -> None:
        """As if the device were unplugged."""
        self.tokens.rename(self.tokens.with_name("away"))

    def bring_back(self) -> None:
        """As if it were plugged in again."""
        self.tokens.with_name("away").rename(self.tokens)

    def bytes(self) -> bytes:
        """All that it keeps."""
        return b"".join(path.read_bytes() for path in self.tokens.rglob("*") if path.is_file())


def soft_hsm(folder: Path) -> SoftHsm:
    """A token of the test's own; the test is skipped where there is no SoftHSM."""
    own = folder / f"softhsm-{uuid.uuid4().hex[:8]}"
    own.mkdir()
    return SoftHsm(own)


def _module() -> str:
    path = next((place for place in _PLACES if Path(place).exists()), None)
    if path is None or shutil.which("softhsm2-util") is None:
        assert not os.environ.get("CI"), "softhsm2 is missing"
        pytest.skip("softhsm2 is not there")
    return path
