"""docs/how-to/workload-guides.md, followed line by line with a platform of the test's own.

What stands in: the platform, the program ``kubectl`` or ``spire-agent``, and Keyosk's URL.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from live import LiveServer
from people import claims_of, ok
from platforms import Platform, platform, send
from processes import execute

PAGE: Final = Path(__file__).parents[1] / "docs" / "how-to" / "workload-guides.md"
URL: Final = "https://login.example.com"
UID: Final = "b0c9e6a4-1f0d-4c1c-9f0e-0d3f3a1b2c4d"

# Each starts a Keyosk and half a dozen programs.
pytestmark = pytest.mark.slow


class Guide:
    """One section of the page on a Keyosk of its own."""

    def __init__(self, server: LiveServer, ci: Platform, folder: Path) -> None:
        self.server, self.ci, self.folder = server, ci, folder
        self.environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        self.program(
            "keyosk", f'exec {sys.executable} -c "from keyosk.cli import main; main()" "$@"'
        )
        ok(server.admin().post("/services", json={"name": "todo", "scopes": ["todo:write"]}), 201)
        self.bash(self.blocks("", "text")[0])

    def blocks(self, heading: str, language: str) -> list[str]:
        """The blocks below a heading; of the page's beginning for none."""
        text = PAGE.read_text().replace(URL, self.server.url)
        sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
        named = dict(zip(["", *sections[1::2]], sections[::2], strict=True))
        return re.findall(rf"^```{language}\n(.*?)^```$", named[heading], re.DOTALL | re.MULTILINE)

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)

    def admin(self, heading: str, **replaced: str) -> None:
        """Do what an admin does. ``replaced``: what the platform of the test has otherwise."""
        commands = self.blocks(heading, "text")[0]
        for old, new in replaced.items():
            assert old in commands
            commands = commands.replace(old, new)
        self.bash(commands)

    def bash(self, script: str, **environment: str) -> None:
        result = execute(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.server.environment, **self.environment, **environment},
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def assert_header(self) -> None:
        """The job has a token of Keyosk."""
        path = self.folder / "header"
        self._assert_token(path.read_text().removeprefix("Authorization: Bearer "))
        path.unlink()

    def assert_python(self, **environment: str) -> None:
        """The two lines of Python get one as well."""
        [lines] = self.blocks("", "python")
        program = f"""
            import httpx
            from keyosk_client import TokenSource
            {textwrap.indent(lines, " " * 12).strip()}
            print(source.token())
        """
        names = ("PATH", "HOME")
        result = execute(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**{n: os.environ[n] for n in names if n in os.environ}, **environment},
        )
        assert result.returncode == 0, result.stderr
        self._assert_token(result.stdout)

    @staticmethod
    def _assert_token(text: str) -> None:
        claims = claims_of(text.strip())
        assert (claims["preferred_username"], claims["scope"]) == ("deployer", "todo:write")
        assert claims["amr"] == ["wif"]


@pytest.fixture
def guide(own_server: LiveServer, tmp_path: Path) -> Iterator[Guide]:
    with own_server as server, platform() as ci:
        yield Guide(server, ci, tmp_path)


def claims(guide: Guide, own: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of a platform's token, with none of the usual ones but those of every JWT."""
    return {**dict.fromkeys(("repository", "repository_id", "ref")), "aud": guide.server.url, **own}


def test_github(guide: Guide) -> None:
    own = {"repository_id": "842913401", "ref": "refs/heads/main"}

    def give(handler: Any) -> None:
        assert handler.headers["Authorization"] == "Bearer of the job"
        send(handler, json.dumps({"value": guide.ci.token(**claims(guide, own))}).encode())

    audience = guide.server.url
    encoded = audience.replace(":", "%3A").replace("/", "%2F")
    for query in (audience, encoded):
        guide.ci.answers[f"/token?api-version=2.0&audience={query}"] = give
    job = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{guide.ci.issuer}/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the job",
    }
    guide.admin(
        "GitHub Actions",
        **{"--preset github": f"--preset github --issuer {guide.ci.issuer} --allow-private"},
    )
    [written] = guide.blocks("GitHub Actions", "yaml")
    read = yaml.safe_load(written)
    assert read["permissions"] == {"id-token": "write"}
    guide.bash(read["steps"][0]["run"], **job)
    guide.assert_header()
    assert not (guide.folder / "token").exists()
    guide.assert_python(**job)


def test_gitlab_ci(guide: Guide) -> None:
    guide.admin(
        "GitLab CI",
        **{"--preset gitlab": f"--preset gitlab --issuer {guide.ci.issuer} --allow-private"},
    )
    [written] = guide.blocks("GitLab CI", "yaml")
    job = yaml.safe_load(written)["deploy"]
    [(variable, asked)] = job["id_tokens"].items()
    own = {"project_id": "20", "ref_path": "refs/heads/main", "aud": asked["aud"]}
    token = {variable: guide.ci.token(**claims(guide, own))}
    [line] = job["script"]
    guide.bash(line, **token)
    guide.assert_header()
    guide.assert_python(**token)


def test_kubernetes(guide: Guide) -> None:
    keys = json.dumps({"keys": guide.ci.keys})
    guide.program(
        "kubectl",
        f"""case "$*" in
            "get --raw /openid/v1/jwks") echo '{keys}' ;;
            "get serviceaccount deployer -o jsonpath={{.metadata.uid}}") printf {UID} ;;
            *) exit 1 ;;
        esac""",
    )
    guide.admin("Kubernetes")
    guide.ci.issuer = "https://kubernetes.default.svc.cluster.local"
    [written] = guide.blocks("Kubernetes", "yaml")
    spec = yaml.safe_load(written)["spec"]
    [volume], [container] = spec["volumes"], spec["containers"]
    [source] = volume["projected"]["sources"]
    [mount] = container["volumeMounts"]
    mounted = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert mounted == "/var/run/secrets/keyosk/token"
    own = {
        "aud": [source["serviceAccountToken"]["audience"]],
        "kubernetes.io": {"serviceaccount": {"name": "deployer", "uid": UID}},
    }
    path = guide.folder / "token"
    path.write_text(guide.ci.token(**claims(guide, own)))
    guide.bash(guide.blocks("Kubernetes", "text")[1].replace(mounted, str(path)))
    guide.assert_header()
    guide.assert_python(KEYOSK_ID_TOKEN_FILE=str(path))


def test_spiffe(guide: Guide) -> None:
    guide.admin("SPIFFE", **{"https://oidc.example.org": f"{guide.ci.issuer} --allow-private"})
    own = {"sub": "spiffe://example.org/deployer", "aud": [guide.server.url]}
    path = guide.folder / "svid"
    path.write_text(guide.ci.token(**claims(guide, own)))
    svids = json.dumps([{"svids": [{"spiffe_id": own["sub"], "svid": path.read_text()}]}, {}])
    guide.program(
        "spire-agent",
        f"""[ "$*" = "api fetch jwt -audience {guide.server.url} -output json" ] || exit 1
        echo '{svids}'""",
    )
    guide.bash(guide.blocks("SPIFFE", "text")[1])
    guide.assert_header()
    guide.assert_python(KEYOSK_ID_TOKEN_FILE=str(path))
