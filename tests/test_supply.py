"""What Keyosk is made of: licences, hashes, and the SBOM that tells of them."""

import json
import re
import sys
import tomllib
from importlib.metadata import distribution, requires
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import keyosk
from processes import execute

ROOT: Final = Path(__file__).resolve().parent.parent
PERMISSIVE: Final = {
    "0BSD",
    "3-Clause BSD License",  # as protobuf says it
    "Apache-2.0",
    "Apache Software License",  # 2.0: the classifier does not say
    "BSD License",  # two clauses or three: the classifier does not say
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "PSF-2.0",
}
# The driver of the extra `postgresql`: changed in nothing, and left out by whoever likes.
#: Copyleft of its own files only: a list of certificates that is used as it is.
MPL: Final = {"certifi": "MPL-2.0"}
LGPL: Final = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}


def supply(what: str) -> str:
    """What tools/supply.py writes, as `make build` and `make audit` start it."""
    command = [sys.executable, "-W", "error", "tools/supply.py", what]
    return execute(command, cwd=ROOT, check=True).stdout


@pytest.fixture(scope="module")
def sbom_text() -> str:
    return supply("sbom")


@pytest.fixture(scope="module")
def sbom(sbom_text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(sbom_text)
    return loaded


def needed_here(name: str, extras: set[str], found: dict[str, str]) -> dict[str, str]:
    """The version of each library that `name` needs on this machine, from what is installed."""
    for text in requires(name) or ():
        requirement = Requirement(text)
        wanted = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker and not any(requirement.marker.evaluate(each) for each in wanted):
            continue
        library = canonicalize_name(requirement.name)
        if library not in found or requirement.extras:
            found[library] = distribution(library).version
            needed_here(library, requirement.extras, found)
    return found


def licences(component: dict[str, Any]) -> set[str]:
    """The names of a component's licences, taken apart where it is a choice."""
    told = [each.get("expression") or each["license"] for each in component["licenses"]]
    texts = [each if isinstance(each, str) else each.get("id") or each["name"] for each in told]
    return {word for text in texts for word in re.split(r" (?:OR|AND) ", text)}


@pytest.mark.slow
def test_the_sbom_is_valid_cyclonedx(sbom_text: str, sbom: dict[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom_text) is None
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("keyosk", distribution("keyosk").version)


def test_the_sbom_lists_what_is_installed_to_run_keyosk(sbom: dict[str, Any]) -> None:
    listed = {each["name"]: each["version"] for each in sbom["components"]}
    needed = needed_here("keyosk", {"postgresql", "pkcs11", "opentelemetry"}, {})
    assert {"flask", "werkzeug", "psycopg-binary"} <= needed.keys()
    assert needed.items() <= listed.items()
    # Beyond that stands only what other machines need.
    elsewhere = {"tzdata", "typing-extensions", "cffi", "pycparser", "httpx2-jsfetch"}
    assert listed.keys() - needed.keys() <= elsewhere


def test_the_sbom_lists_nothing_that_only_tests_or_builds_need(sbom: dict[str, Any]) -> None:
    assert not {each["name"] for each in sbom["components"]} & {"pytest", "ruff", "sphinx", "pip"}


def test_the_sbom_has_the_hash_of_every_file_that_the_lock_allows(sbom: dict[str, Any]) -> None:
    packages = {each["name"]: each for each in lock()}
    for component in sbom["components"]:
        stated = [
            f"sha256:{value['content']}"
            for reference in component["externalReferences"]
            for value in reference["hashes"]
            if value["alg"] == "SHA-256"
        ]
        allowed = [file["hash"] for file in packages[component["name"]]["files"]]
        assert allowed
        assert sorted(stated) == sorted(allowed), component["name"]


def test_what_only_an_extra_needs_is_optional_in_the_sbom(sbom: dict[str, Any]) -> None:
    optional = {each["name"] for each in sbom["components"] if each["scope"] == "optional"}
    postgresql = {"psycopg", "psycopg-binary", "tzdata"}
    traces = {each for each in optional if each.startswith("opentelemetry-")}
    traces |= {"googleapis-common-protos", "protobuf", "wrapt"}
    traces |= {"requests", "urllib3", "charset-normalizer", "certifi"}
    assert optional == {*postgresql, *traces, "python-pkcs11", "asn1crypto"}


def test_the_sbom_tells_who_needs_whom(sbom: dict[str, Any]) -> None:
    refs = {each["bom-ref"]: each["name"] for each in sbom["components"]}
    needs = {each["ref"]: each.get("dependsOn", []) for each in sbom["dependencies"]}
    flask = next(ref for ref, name in refs.items() if name == "flask")
    assert {"werkzeug", "jinja2"} <= {refs[ref] for ref in needs[flask]}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"].values()
    direct = [*declared["dependencies"], *chain.from_iterable(extras)]
    names = {canonicalize_name(Requirement(each).name) for each in direct}
    assert {refs[ref] for ref in needs[sbom["metadata"]["component"]["bom-ref"]]} == names


@pytest.mark.slow
def test_the_same_lock_gives_the_same_sbom(sbom_text: str) -> None:
    assert supply("sbom") == sbom_text


# --- Licences -------------------------------------------------------------------------------------


def test_all_that_keyosk_runs_on_is_permissive_but_a_list(sbom: dict[str, Any]) -> None:
    others = {
        component["name"]: " ".join(sorted(licences(component)))
        for component in sbom["components"]
        if not licences(component) <= PERMISSIVE
    }
    assert others == {**MPL, **LGPL}


def test_the_driver_that_is_not_is_an_extra() -> None:
    core = needed_here("keyosk", set(), {})
    assert "flask" in core
    assert not LGPL.keys() & core.keys()


def test_a_licence_that_metadata_lacks_is_that_of_the_file(sbom: dict[str, Any]) -> None:
    assert {each["name"]: licences(each) for each in sbom["components"]}["peewee"] == {"MIT"}
    files = distribution("peewee").files or []
    (text,) = [each.read_text() for each in files if each.name == "LICENSE"]
    assert "Permission is hereby granted, free of charge, to any person" in text


# --- The lock -------------------------------------------------------------------------------------


def lock() -> list[dict[str, Any]]:
    """Return the packages of the lock, except for the client library of this repository."""
    packages: list[dict[str, Any]] = tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    return [
        each for each in packages if each.get("source") != {"type": "directory", "url": "client"}
    ]


def test_every_file_in_the_lock_has_its_sha256() -> None:
    packages = lock()
    assert len(packages) > 100
    for package in packages:
        assert package["files"], package["name"]
        for file in package["files"]:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), (package["name"], file)


def test_the_lock_takes_nothing_from_elsewhere_than_the_index() -> None:
    for package in lock():
        assert "source" not in package, package["name"]
        assert all(set(file) == {"file", "hash"} for file in package["files"]), package["name"]


def test_every_library_that_is_asked_for_is_accounted_for() -> None:
    pages = ("explanation/dependencies.md", "reference/tools.md")
    page = "".join((ROOT / "docs" / name).read_text() for name in pages)
    rows = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"[a-z][a-z0-9-]*", row)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [*project["dependency-groups"].values(), project["project"]["dependencies"]]
    groups += project["project"]["optional-dependencies"].values()
    for each in chain.from_iterable(groups):
        assert Requirement(each).name in told, each


def test_the_program_knows_its_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == keyosk.__version__


def test_pip_audit_reads_every_library_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(supply("requirements"))
    command = [sys.executable, "-m", "pip_audit", "--dry-run", "--strict", "--disable-pip"]
    command += ["--require-hashes", "--requirement", "requirements.txt"]
    result = execute(command, cwd=tmp_path)
    count = len([each for each in lock() if "main" in each["groups"]])
    assert (result.returncode, f"audited {count} packages" in result.stderr) == (0, True), (
        result.stderr
    )
