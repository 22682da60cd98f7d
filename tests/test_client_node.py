"""@keyosk/client: its own tests, with Node's test runner, against a Keyosk that runs here."""

import json
import re
import shutil
import socket
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import node_services as services
from live import ADMIN_PASSWORD, Client, LiveServer
from node_services import CLIENT, ROOT
from people import make_key, make_person
from test_forged import Forge, forgeries

pytestmark = pytest.mark.slow

TESTS = sorted({each.name for each in (CLIENT / "test").glob("*.test.js")} - {"forged.test.js"})
#: They wait for polls and for Retry-After.
LONG = {"revocations.test.js", "token_source.test.js"}


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The package and its tests, with what they need."""
    with services.workspace() as folder:
        for name in ("src", "types", "test"):
            shutil.copytree(CLIENT / name, folder / name)
        for name in ("package.json", "testing.js"):
            shutil.copy(CLIENT / name, folder)
        yield folder


def _passes(folder: Path, name: str, **given: str) -> None:
    result = services.run(folder, "node", f"test/{name}", KEYOSK_TEST=json.dumps(given))
    assert result.returncode == 0, result.stdout + result.stderr
    (passed,) = re.findall(r"^# pass (\d+)$", result.stdout, re.MULTILINE)
    assert int(passed) > 1
    assert re.search(r"^# (fail|cancelled|skipped|todo) [1-9]", result.stdout, re.MULTILINE) is None


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in TESTS]
)
def test_its_own_tests(server: LiveServer, installed: Path, name: str) -> None:
    _passes(installed, name, url=server.url, password=ADMIN_PASSWORD)


@pytest.mark.attack
def test_no_forgery_passes(
    server: LiveServer, admin: Client, installed: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        forge = Forge(server, admin, trap.getsockname()[1])
        try:
            examples = {
                "audience": forge.first,
                "good": [forge.right(), forge.right(forge.head(typ="AT+JWT"))],
                "forged": forgeries(forge),
                "vectors": [
                    str(ROOT / f"tests/vectors/wycheproof_json_web_{each}_test.json")
                    for each in ("signature", "key")
                ],
            }
        finally:
            forge.installation.database.close()
        file = tmp_path / "examples.json"
        file.write_text(json.dumps(examples))
        _passes(installed, "forged.test.js", url=server.url, examples=str(file))
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_the_types_are_right_for_users_in_the_strictest_mode(installed: Path) -> None:
    result = services.run(installed, "npm", "run", "types")
    assert result.returncode == 0, result.stdout


def test_it_is_small_and_needs_only_jose() -> None:
    package = json.loads((CLIENT / "package.json").read_text())
    assert list(package["dependencies"]) == ["jose"]
    assert package["version"] == version("keyosk")
    lines = [
        line.strip() for file in CLIENT.glob("src/*.js") for line in file.read_text().splitlines()
    ]
    assert len([line for line in lines if line and not line.startswith(("//", "/**"))]) <= 520


def test_the_lock_names_no_host_and_has_a_hash_of_every_file() -> None:
    packages = json.loads((CLIENT / "package-lock.json").read_text())["packages"]
    assert packages[""]["dependencies"].keys() == {"jose"}
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert name in ("", "types", "src") or package["integrity"].startswith("sha512-"), name


def test_the_package_has_what_users_need_and_nothing_else(tmp_path: Path) -> None:
    with tarfile.open(services.pack(tmp_path)) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    expected = {f"src/{file.name}" for file in CLIENT.glob("src/*")}
    expected |= {f"types/{file.name}" for file in CLIENT.glob("types/*")}
    assert names == expected | {"package.json", "testing.js", "README.md", "LICENSE"}
    exported = json.loads((CLIENT / "package.json").read_text())["exports"]
    assert {path[2:] for each in exported.values() for path in each.values()} <= names


def test_the_readme_as_it_stands(server: LiveServer, admin: Client, tmp_path: Path) -> None:
    readme = (CLIENT / "README.md").read_text()
    (install,) = re.findall(r"^```sh\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    packed = services.pack(tmp_path)
    # In an empty folder: it brings all that the programs without a framework need.
    result = services.run(tmp_path, "bash", "-euc", install.replace("./", f"{packed.parent}/"))
    assert result.returncode == 0, result.stderr
    services.make_todo(admin)
    reporter = make_person(admin, "todo:read")
    (tmp_path / "reporter.key").write_text(make_key(admin, reporter)[1] + "\n")
    snippets = services.snippets(CLIENT / "README.md")
    express = next(each for each in snippets if each.is_service)
    alone, source = (each.text for each in snippets if not (each.is_service or each.is_test))

    def said(text: str) -> str:
        (tmp_path / "program.mjs").write_text(text.replace(services.KEYOSK, server.url))
        result = services.run(tmp_path, "node", "program.mjs")
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert said(alone) == "refused\n"
    with (
        services.user_folder() as folder,
        services.running(folder, express, server.url) as address,
    ):
        text = source.replace("http://127.0.0.1:8081/todos", address)
        assert said(text.replace('"reporter"', f'"{reporter.username}"')) == "200\n"


def test_the_readme_tells_the_options_that_there_are() -> None:
    readme = (CLIENT / "README.md").read_text()
    types = (CLIENT / "types/index.d.ts").read_text()
    (options,) = re.findall(
        r"interface VerifierOptions \{(.*?)^\}", types, re.DOTALL | re.MULTILINE
    )
    names = set(re.findall(r"^  (\w+)\??:", options, re.MULTILINE)) - {"clock"}  # for tests
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == names
