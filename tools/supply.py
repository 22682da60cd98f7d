"""The libraries that Keyosk runs on, from poetry.lock; those for development are left out.

python tools/supply.py sbom          a CycloneDX 1.6 SBOM in JSON, with files, hashes and licences
python tools/supply.py requirements  the same libraries for pip-audit, pinned by version and hash
python tools/supply.py pins FOLDER   what pip installs before the wheel: requirements.txt in FOLDER,
                                     and requirements-EXTRA.txt for Keyosk with that extra

All need no network, and are the same to the letter for the same poetry.lock
and version of Keyosk: no time, no random serial number. ``cyclonedx-py poetry`` reads neither a
``[project]`` table nor licences, so this uses the library that it is built on.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "poetry.lock"

# What the metadata does not tell. tests/test_supply.py compares it with the licence files.
LICENCES: Final[Mapping[str, str]] = {
    "httpx2-jsfetch": "BSD-3-Clause",  # installed in browsers only
    "peewee": "MIT",  # says it in its licence file only
    "typing-extensions": "PSF-2.0",  # installed below Python 3.13 only
    "tzdata": "Apache-2.0",  # installed on Windows only
}
# Where a wheel has no SPDX expression. "BSD License" does not say which, and stays as it is.
_CLASSIFIERS: Final[Mapping[str, str]] = {"MIT License": "MIT"}
_EXTRA: Final = r'extra == "[^"]*"'
_NAMES: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Library:
    """A library of the lock; `files` are (name, SHA-256 in hex), `needs` names of others here."""

    name: str
    version: str
    files: tuple[tuple[str, str], ...]
    needs: frozenset[str]
    marker: str = ""

    def pin(self) -> str:
        """The line of a requirements file, with the hash of every file that may be taken."""
        hashes = [f"--hash=sha256:{digest}" for _, digest in self.files]
        condition = f" ; {self.marker}" if self.marker else ""
        return " \\\n    ".join([f"{self.name}=={self.version}{condition}", *hashes]) + "\n"

    def purl(self, file: str | None = None) -> PackageURL:
        """Return the package URL of the library, or of one of its files, without an index."""
        qualifiers = {} if file is None else {"file_name": file}
        return PackageURL("pypi", None, self.name, self.version, qualifiers)


def canonical(name: str) -> str:
    """Return a name as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def libraries() -> dict[str, Library]:
    """Return the group `main` and its extras by name. Raises ``ValueError`` without SHA-256."""
    lock = tomllib.loads(LOCK.read_text())
    packages = {each["name"]: each for each in lock["package"] if "main" in each["groups"]}
    return {
        name: Library(
            name,
            package["version"],
            tuple((file["file"], _sha256(file["hash"])) for file in package["files"]),
            frozenset(map(canonical, package.get("dependencies", ()))) & packages.keys(),
            _marker(package.get("markers", "")),
        )
        for name, package in packages.items()
    }


def _marker(told: str | Mapping[str, str]) -> str:
    """Return the marker of the machines that need a library; `needs` has the extras."""
    text = told if isinstance(told, str) else told.get("main", "")
    if any(re.fullmatch(_EXTRA, each) for each in text.split(" or ")):
        return ""  # every machine, for the extra: an unneeded library does no harm
    clauses = [each for each in text.split(" and ") if not re.fullmatch(_EXTRA, each)]
    if any("extra" in each for each in clauses):
        raise ValueError(f"poetry.lock has a marker that cannot be read here: {text}")
    return " and ".join(clauses)


def _sha256(text: str) -> str:
    algorithm, _, value = text.partition(":")
    if algorithm != "sha256":
        raise ValueError(f"poetry.lock has a hash that is not SHA-256: {algorithm}")
    return value


def licence(name: str) -> str:
    """Return the SPDX expression or its own text. Raises ``LookupError`` if it has none."""
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        return LICENCES[name]
    if fields.get("License-Expression"):
        return fields["License-Expression"]
    text = fields.get("License") or ""
    if is_supported_id(text):
        return text
    classifiers = [each.split(" :: ") for each in fields.get_all("Classifier") or ()]
    names = [_CLASSIFIERS.get(each[-1], each[-1]) for each in classifiers if each[0] == "License"]
    return " AND ".join(names) or text or LICENCES[name]


def _reachable(all_libraries: Mapping[str, Library], names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            yield name
            ahead += all_libraries[name].needs


def _direct(requirements: Iterable[str]) -> list[str]:
    """Return the names of the libraries in requirements (PEP 508)."""
    matches = (_NAMES.match(requirement) for requirement in requirements)
    return [canonical(match[0]) for match in matches if match is not None]


def _component(library: Library, scope: ComponentScope) -> Component:
    license_ = LicenseFactory().make_from_string(
        licence(library.name), license_acknowledgement=LicenseAcknowledgement.DECLARED
    )
    return Component(
        type=ComponentType.LIBRARY,
        name=library.name,
        version=library.version,
        bom_ref=library.purl().to_string(),
        purl=library.purl(),
        scope=scope,
        licenses=[license_],
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(library.purl(file).to_string()),
                hashes=[HashTypeFactory().from_hashlib_alg("sha256", digest)],
            )
            for file, digest in library.files
        ],
    )


def sbom() -> str:
    """Return the SBOM in JSON; libraries that only an extra needs are optional in it."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    all_libraries = libraries()
    direct = _direct(project["dependencies"])
    extras = [_direct(each) for each in project.get("optional-dependencies", {}).values()]
    required = set(_reachable(all_libraries, direct))
    components = {
        name: _component(
            library, ComponentScope.REQUIRED if name in required else ComponentScope.OPTIONAL
        )
        for name, library in sorted(all_libraries.items())
    }
    keyosk = PackageURL("pypi", None, project["name"], project["version"])
    root = Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        description=project["description"],
        bom_ref=keyosk.to_string(),
        purl=keyosk,
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    contents = f"{keyosk} {LOCK.read_text()}"
    bom = Bom(components=components.values(), serial_number=uuid5(NAMESPACE_URL, contents))
    bom.metadata.component = root
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.register_dependency(root, [components[name] for name in sum(extras, direct)])
    for name, library in all_libraries.items():
        bom.register_dependency(components[name], [components[each] for each in library.needs])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def requirements() -> str:
    """Return all libraries for pip-audit, without markers, so that all are audited here."""
    return "".join(replace(library, marker="").pin() for library in libraries().values())


def pins() -> dict[str, str]:
    """Return the files by name: the pins of Keyosk alone, and of Keyosk with each extra."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    all_libraries, direct = libraries(), _direct(project["dependencies"])
    extras = project.get("optional-dependencies", {})
    names_by_file = {"requirements.txt": direct}
    names_by_file |= {f"requirements-{name}.txt": direct + _direct(extras[name]) for name in extras}
    return {
        file: "".join(
            all_libraries[name].pin() for name in sorted(_reachable(all_libraries, names))
        )
        for file, names in names_by_file.items()
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["sbom"]:
            print(sbom(), end="")
        case ["requirements"]:
            print(requirements(), end="")
        case ["pins", folder]:
            for file, text in pins().items():
                (Path(folder) / file).write_text(text)
        case _:
            sys.exit(f"usage: python {sys.argv[0]} sbom|requirements|pins FOLDER")
