"""The documentation says what the program does: all of it, and nothing else."""

import importlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import api_pages
from keyosk.cli import keyosk as command_tree
from keyosk.model.records import AuditAction
from keyosk.model.services import KEYOSK_SCOPES
from keyosk.server import problems
from keyosk.server.problems import Problem
from keyosk.web import errors as web_errors
from keyosk.web.openapi import build
from keyosk.web.routes import ROUTES
from live import LiveServer
from pages import enrol, logged_in
from processes import execute
from tables import table

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("client*/*.md"),
    ]
)
API = api_pages.as_one()
COMMANDS = (REFERENCE / "commands.md").read_text()
ERRORS = (REFERENCE / "errors.md").read_text()
TOKENS = (REFERENCE / "tokens.md").read_text()

Spec = dict[str, Any]

ALICE_PASSWORD = "violet lamps orbit slowly"
NEW_PASSWORD = "slowly orbit lamps violet"


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def description() -> Spec:
    return build(ROUTES, "http://127.0.0.1:8080")


# --- Addresses ------------------------------------------------------------------------------------


def test_every_address_and_method_is_in_the_api_page_and_none_that_does_not_exist() -> None:
    served = {
        (method, re.sub(r"<(\w+)>", r"{\1}", route.path))
        for route in ROUTES
        for method in route.access
    }
    documented = [
        (method, path)
        for methods, path in re.findall(r"^### ([A-Z, ]+) (/\S*)$", API, re.MULTILINE)
        for method in methods.split(", ")
    ]
    assert sorted(documented) == sorted(served)


def test_every_address_in_the_api_page_has_a_curl_line_of_its_own() -> None:
    for section in re.split(r"^(?=##+ )", API, flags=re.MULTILINE):
        match = re.match(r"### ([A-Z]+)[A-Z, ]* (/\S+)\n", section)
        if match is None:
            continue
        method, path = match.groups()
        pattern = re.sub(r"\\\{\w+\\\}", r"[^/\\s\"?]+", re.escape(path))
        assert re.search(rf'"\$KEYOSK{pattern}["?]', section), f"no curl line for {path}"
        if method in ("PUT", "PATCH", "DELETE"):
            assert f"-X {method}" in section


def test_every_resource_of_the_api_has_a_page_in_its_contents() -> None:
    assert set(api_pages.RESOURCES) == set((REFERENCE / "api").glob("*.md"))


def test_what_a_page_says_of_scopes_is_what_the_description_says(description: Spec) -> None:
    for section in re.split(r"^(?=##+ )", without_code(API), flags=re.MULTILINE):
        match = re.match(r"### ([A-Z, ]+) (/\S*)\n", section)
        if match is None:
            continue
        for method in match[1].split(", "):
            needed = description["paths"][match[2]][method.lower()].get("x-required-scope")
            said = re.search(r"Who:\s+(`keyosk:[a-z:]+`|anyone|as for)", section)
            if needed is None:
                assert said is None or said[1] == "anyone", section
            elif said is not None and said[1] != "as for":
                assert said[1] == f"`{needed}`", section


def test_each_operation_has_its_details_from_the_description(
    description: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    operations = importlib.import_module("operations")
    details = "".join(
        operations.extend(page.read_text(), description) for page in api_pages.RESOURCES
    )
    whole = [each for path in description["paths"].values() for each in path.values()]
    assert details.count("<summary>Details of ") == len(whole)
    for each in whole:
        assert f"{each['summary']}. " in details
    begin = details.index("<summary>", details.index("\n## POST /accounts\n"))
    table = details[begin : details.index("</details>", begin)]
    for name, field in description["components"]["schemas"]["AccountNew"]["properties"].items():
        assert re.search(rf"^\| `{name}` \| .+ \| .+ \|$", table, re.MULTILINE), field
    assert "| 422 | `invalid` |" in table


def test_every_endpoint_of_the_program_is_in_the_table_of_all() -> None:
    table = API[API.index("## All endpoints") : API.index("## Conventions")]
    for route in ROUTES:
        path = re.sub(r"<(\w+)>", r"{\1}", route.path)
        assert f"{path.removesuffix('/{key}')}`" in table, path


def test_the_readme_links_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(ROOT))
        if page in api_pages.RESOURCES:
            # The page that the README names leads on.
            assert f"(api/{page.name})" in api_pages.OVERVIEW.read_text(), name
            continue
        assert f"({name})" in readme or name in ("docs/index.md", "docs/contributing.md"), name


def test_every_error_code_is_in_the_page_of_errors_with_its_status() -> None:
    details, oauth = ERRORS.split("## OAuth errors")
    server = {known.code for known in vars(problems).values() if isinstance(known, Problem)}
    for name in {kind.code for kind in web_errors.STATUS} | server | set(web_errors.SENTENCES):
        assert f"`{name}`" in ERRORS, name
    for kind, status in web_errors.STATUS.items():
        row = re.search(rf"^\| (.+?) \| .*`{kind.code}`.* \|", details, re.MULTILINE)
        assert row is None or str(int(status)) in row[1], kind
    codes = {"invalid_request", *web_errors.OAUTH_CODES.values()}
    for name in codes | set(web_errors.OAUTH_STATUS_CODES.values()):
        assert f"`{name}`" in oauth, name


def test_the_pages_of_scopes_and_events_have_those_of_the_program() -> None:
    scopes = re.findall(r"^\| `(keyosk:\S+)` \| (.+) \|$", page("scopes"), re.MULTILINE)
    assert dict(scopes) == KEYOSK_SCOPES
    events = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| .+ \|$", page("events"), re.MULTILINE)
    assert sorted(events) == sorted(get_args(AuditAction))


def page(name: str) -> str:
    """A page of the reference."""
    return (REFERENCE / f"{name}.md").read_text()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A Keyosk that has what the examples speak of."""
    folder = tmp_path_factory.mktemp("docs")
    with LiveServer(f"sqlite:///{folder / 'keyosk.db'}", folder) as server:
        admin = server.admin()
        for name, scopes in [("todo", ["todo:read", "todo:write"]), ("obsolete", [])]:
            body = {"name": name, "scopes": scopes, "refresh_allowed": True}
            assert admin.post("/services", json=body).ok
        assert admin.post("/accounts", json={"username": "alice", "password": ALICE_PASSWORD}).ok
        yield server


def bash(server: LiveServer, script: str, **variables: str) -> str:
    """Run a script whose first failure ends it; a response that is an error is one."""
    result = execute(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=server.folder,
        env={**server.environment, "no_proxy": "127.0.0.1", **variables},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def new_key(server: LiveServer, name: str) -> tuple[str, str]:
    """A key of alice's, who holds both scopes again whatever another test did."""
    admin = server.admin()
    assert admin.put("/accounts/alice/grants", json={"scopes": ["todo:read", "todo:write"]}).ok
    created = admin.post("/accounts/alice/api-keys", json={"name": name}).json()
    return created["id"], created["secret"]


@pytest.mark.slow
def test_every_curl_line_of_the_api_page_works_when_pasted(live: LiveServer) -> None:
    key_id, _ = new_key(live, "for deletion")
    _, secret = new_key(live, "kept")
    # The authorization endpoint does nothing but refuse.
    strict = """curl() { case "$*" in
        */auth/authorize*) command curl "$@" | grep unsupported_response_type ;;
        *) command curl --fail-with-body "$@" ;;
    esac; }"""
    script = "\n".join([strict, "set -x", *code(API, "sh")])
    script = script.replace("http://127.0.0.1:8080", live.url)
    offline = {"scope": "offline_access"}
    assert live.client("alice", secret).post("/auth/token", data=offline).json()["refresh_token"]
    sessions = live.admin().get("/accounts/alice/tokens").json()["items"]
    enrol(logged_in(live, "alice", ALICE_PASSWORD), ALICE_PASSWORD)
    (console,) = live.admin().get("/accounts/alice/console-sessions").json()["items"]
    variables = {
        "ADMIN_PASSWORD": live.environment["KEYOSK_ADMIN_PASSWORD"],
        "ALICE_PASSWORD": ALICE_PASSWORD,
        "NEW_PASSWORD": NEW_PASSWORD,
        "ALICE_KEY": secret,
        "KEY_ID": key_id,
        "CONSOLE_SESSION_ID": console["id"],
        "FACTOR_ID": live.admin().get("/accounts/alice/second-factors").json()["items"][0]["id"],
        "SESSION_ID": sessions[0]["id"],
        "KID": live.client().get("/auth/jwks").json()["keys"][0]["kid"],
    }
    assert bash(live, script, **variables).count('"access_token"') >= 3


# --- Commands -------------------------------------------------------------------------------------


def commands(group: click.Group, prefix: str = "keyosk") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_every_command_is_in_the_commands_page_and_none_that_does_not_exist() -> None:
    documented = [heading for heading in headings(COMMANDS) if heading.startswith("keyosk ")]
    assert sorted(documented) == sorted(commands(command_tree))


def test_every_command_has_an_example() -> None:
    for section in re.split(r"^(?=##+ )", COMMANDS, flags=re.MULTILINE):
        match = re.match(r"### (keyosk .+)\n", section)
        assert match is None or any(match[1] in block for block in code(section, "sh")), match


def test_every_example_of_commands_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KEYOSK_")]:
        monkeypatch.delenv(name)
    lines = [line for block in code(COMMANDS, "sh") for line in block.splitlines()]
    # The one runs for ever, the other needs it; test_listening has both.
    lines.remove("keyosk serve")
    lines.remove("keyosk health --ready")
    # These need a server with a certificate; test_remote has others.
    lines = [line for line in lines if "--server" not in line]
    # Needs a service; test_bad_tokens has one.
    lines = [line for line in lines if not line.startswith("keyosk verify-service")]
    # Needs a token of another platform; test_workload_commands has one.
    lines = [line for line in lines if not line.startswith("keyosk issuer test")]
    # Needs PostgreSQL; test_move has it.
    lines = [line for line in lines if not line.startswith("keyosk database load")]
    (tmp_path / "state.yaml").write_text("owner: docs\nroles:\n  - name: from-a-file\n")
    # What the examples take for granted; and the database comes first.
    lines = [
        "keyosk database upgrade --create",
        "keyosk service create todo --scope todo:read",
        *lines,
    ]
    lines.insert(2, "keyosk service scopes todo todo:read todo:write")
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    given: dict[str, str] = {}
    # Needs a refresh session; test_finding has one.
    lines = [line for line in lines if "$SESSION_ID" not in line]
    # Needs a server that answers; test_doctor has one.
    lines = [line for line in lines if not line.startswith("keyosk doctor")]
    for line in lines:
        key_id = ""
        if "$KEY_ID" in line:
            listed = CliRunner().invoke(command_tree, ["api-key", "list", "alice", "--json"])
            key_id = json.loads(listed.stdout)["items"][-1]["id"]
        if "$KID" in line or "$NEXT_KID" in line:
            listed = CliRunner().invoke(command_tree, ["signing-key", "list", "--json"])
            kids = {key["state"]: key["kid"] for key in json.loads(listed.stdout)["items"]}
            line = line.replace("$KID", kids["active"])  # noqa: PLW2901  # as a shell would
            line = line.replace("$NEXT_KID", kids["next"])  # noqa: PLW2901
        command, _, source = line.partition(" < ")
        command, _, target = command.partition(" > ")
        words = [word.replace("$KEY_ID", key_id) for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(
            command_tree, words, input=given.get(source, f"{ALICE_PASSWORD}\n")
        )
        if target:
            (tmp_path / target).write_text(result.stdout)
        if line.startswith("keyosk api-key create alice"):
            given["leaked.txt"] = result.stdout.split("secret")[1].strip()
        if " issue " in line:
            given["token.txt"] = result.stdout
        assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"


# --- How to check a token -------------------------------------------------------------------------


def test_both_python_snippets_take_a_good_token_and_no_other_audience(live: LiveServer) -> None:
    _, secret = new_key(live, "for the snippets")
    alice = live.client("alice", secret)
    good = alice.post("/auth/token", data={"format": "token"}).text.strip()
    other = alice.post("/auth/token", data={"audience": "keyosk", "format": "token"}).text.strip()
    snippets = [block for block in code(TOKENS, "python") if "def claims_of" in block]
    assert len(snippets) == 2
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet.replace("http://127.0.0.1:8080", live.url), names)  # noqa: S102  # as pasted
        claims_of = names["claims_of"]
        assert callable(claims_of)
        assert claims_of(good)["scope"] == "todo:read todo:write"
        changed = good[:-8] + ("AAAAAAAA" if not good.endswith("AAAAAAAA") else "BBBBBBBB")
        for bad in (other, changed):
            with pytest.raises(Exception) as refusal:  # noqa: PT011  # each library has its own
                claims_of(bad)
            assert type(refusal.value).__module__.split(".")[0] in ("jwt", "joserfc")


def test_every_claim_that_is_issued_is_in_the_tokens_page(live: LiveServer) -> None:
    _, secret = new_key(live, "for its claims")
    text = live.client("alice", secret).post("/auth/token", data={"format": "token"}).text.strip()
    decoded = jwt.decode_complete(text, options={"verify_signature": False})
    for name in [*decoded["payload"], *decoded["header"]]:
        assert f"`{name}`" in TOKENS, name


# --- Words ----------------------------------------------------------------------------------------


@table("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_word_stands_twice(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "`", without_code(page.read_text()))
    assert re.findall(r"\b([A-Za-z]+)[ \n]\1\b", text) == []


# --- Links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names that GitHub, and our Sphinx settings, give the headings of a page."""
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in headings(page.read_text())
    }


@table("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if page.is_relative_to(DOCS):
            assert there.is_relative_to(DOCS), f"{target}: the built pages do not have it"
        assert not anchor or anchor in anchors(there), target


def test_the_tables_of_contents_have_every_page() -> None:
    listed = {DOCS / "index.md"}
    for page in DOCS.rglob("*.md"):
        for toctree in code(page.read_text(), r"\{toctree\}"):
            for name in [line for line in toctree.split() if not line.startswith(":")]:
                listed |= set(page.parent.glob(f"{name}.md"))
    assert listed == set(DOCS.rglob("*.md"))


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not there")
def test_the_node_snippet_is_javascript(tmp_path: Path) -> None:
    (snippet,) = code(TOKENS, "js")
    (tmp_path / "snippet.mjs").write_text(snippet)
    result = execute(["node", "--check", "snippet.mjs"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_page_of_performance_has_the_published_figures() -> None:
    page = (REFERENCE / "performance.md").read_text()
    published = json.loads((REFERENCE / "performance.json").read_text())
    for row in published["measured"]:
        assert f"| {row['name']} | " in page
    for target in published["targets"]:
        verdict = "met" if target["met"] else "missed"
        assert re.search(rf"\| {re.escape(target['row'])}: .*\| {verdict} \|", page), target


def test_the_page_of_growth_has_the_published_figures() -> None:
    page = (REFERENCE / "growth.md").read_text()
    for figures in json.loads((REFERENCE / "growth.json").read_text())["tables"]:
        _, _, rest = page.partition(f"**{figures['title'].capitalize()}, {figures['database']}**")
        for row in figures["rows"]:
            verdict = {None: "", True: "met", False: "missed"}[row["met"]]
            path, comma, more = row["name"].partition(",")
            name = f"`{path}`{comma}{more}" if path.startswith("/") else row["name"]
            begin, end = f"| {name}, {row['unit']} | ", f" | {row['target']} | {verdict} |\n"
            assert re.search(f"{re.escape(begin)}.*{re.escape(end)}", rest), row
