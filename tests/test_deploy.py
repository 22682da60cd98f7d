"""What is shipped to those who run Keyosk: packages, and what is in deploy/."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from test_supply import needed_here

ROOT: Final = Path(__file__).resolve().parent.parent


# --- What is installed ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make build` writes its pins to."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "tools/supply.py", "pins", folder], cwd=ROOT, check=True)
    return folder


def pins(file: Path) -> dict[str, tuple[Requirement, set[str]]]:
    """The lines of a requirements file: each library with the hashes that pip accepts."""
    lines = file.read_text().replace("\\\n", "").splitlines()
    found = {}
    for line in lines:
        text, *hashes = re.split(r" +--hash=", line)
        requirement = Requirement(text)
        found[requirement.name] = (requirement, set(hashes))
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.txt", set[str]()),
        ("requirements-postgresql.txt", {"postgresql"}),
        ("requirements-pkcs11.txt", {"pkcs11"}),
    ],
)
def test_the_pins_beside_the_wheel_are_the_locked_set_and_nothing_else(
    name: str, extras: set[str], dist: Path
) -> None:
    here = {
        library: str(requirement.specifier)
        for library, (requirement, _) in pins(dist / name).items()
        if requirement.marker is None or requirement.marker.evaluate()
    }
    needed = needed_here("keyosk", extras, {})
    assert here == {library: f"=={version}" for library, version in needed.items()}
    locked = {
        canonicalize_name(each["name"]): {file["hash"] for file in each["files"]}
        for each in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    }
    for library, (_, hashes) in pins(dist / name).items():
        assert hashes == locked[canonicalize_name(library)], library


def test_every_extra_has_its_pins(dist: Path) -> None:
    extras = distribution("keyosk").metadata.get_all("Provides-Extra") or []
    files = {"requirements.txt", *(f"requirements-{each}.txt" for each in extras)}
    assert {each.name for each in dist.iterdir()} == files


def copy_of_the_sources(folder: Path, *, mode: int, time: int) -> None:
    """What the repository holds, with other permissions and times, and the tools made here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        copy.chmod(mode | (ROOT / name).stat().st_mode & 0o100)
        os.utime(copy, (time, time))
    for made in (".venv", ".poetry"):
        (folder / made).symlink_to(ROOT / made)


@pytest.mark.slow
def test_make_build_in_two_folders_gives_the_same_bytes(tmp_path: Path) -> None:
    built = []
    for name, mode, time in (("one", 0o644, 1_600_000_000), ("another", 0o664, 1_700_000_000)):
        copy_of_the_sources(tmp_path / name, mode=mode, time=time)
        # What is installed is that of these sources; it must not be changed from the copy.
        command = ["make", "--old-file=.venv/.development", "build"]
        subprocess.run(command, cwd=tmp_path / name, check=True, capture_output=True)
        built.append(
            {each.name: each.read_bytes() for each in (tmp_path / name / "dist").iterdir()}
        )
    version = distribution("keyosk").version
    assert {f"keyosk-{version}-py3-none-any.whl", f"keyosk-{version}.tar.gz"} <= built[0].keys()
    assert {"requirements.txt", "requirements-postgresql.txt"} <= built[0].keys()
    assert built[0].keys() == built[1].keys()
    assert [name for name in built[0] if built[0][name] != built[1][name]] == []
