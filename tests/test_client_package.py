"""keyosk-client: a distribution of its own that needs nothing of the server."""

import sys
import tomllib
from pathlib import Path

import pytest

import keyosk_client
from processes import execute

ROOT = Path(__file__).parent.parent
FOLDER = Path(keyosk_client.__file__).parent


def project(folder: Path) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def test_it_has_the_servers_version_and_licence() -> None:
    client, server = project(ROOT / "client"), project(ROOT)
    assert client["version"] == server["version"] == keyosk_client.__version__
    assert (ROOT / "client" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_it_loads_nothing_of_the_server_and_no_framework() -> None:
    program = "import sys, keyosk_client, keyosk_client.testing; print(*sys.modules)"
    result = execute([sys.executable, "-c", program])
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    others = {"keyosk", "flask", "fastapi", "starlette", "django", "rest_framework", "aiohttp"}
    assert "keyosk_client" in loaded
    assert not loaded & {*others, "requests", "pytest", "grpc"}


@pytest.mark.slow
def test_the_stand_in_is_for_tests_only() -> None:
    program = (
        "from keyosk_client.testing import FakeKeyosk\nFakeKeyosk('https://a.example', 'todo'%s)"
    )
    for more, code in (("", 1), (", outside_tests=True", 0)):
        result = execute([sys.executable, "-c", program % more])
        assert result.returncode == code, result.stderr
        assert ("is for tests only" in result.stderr) is bool(code)
