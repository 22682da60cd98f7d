"""The services of the documents for Node.js: each is started as it stands and attacked."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

import node_services as services
from live import ADMIN_PASSWORD, Client, LiveServer
from node_services import CLIENT, ROOT, Snippet
from people import make_key, make_person
from test_key_lives import rotated

pytestmark = pytest.mark.slow

PAGE = services.snippets(ROOT / "docs/how-to/services/node.md")
README = services.snippets(CLIENT / "README.md")

GUIDE = [each for each in PAGE if each.is_service]
OURS = [each for each in README if each.is_service]


def test_every_framework_is_there() -> None:
    assert [each.title for each in OURS] == ["Express", "Fastify", "Hono", "Node's own http"]
    assert [each.title for each in GUIDE] == [
        *("Express", "With express-oauth2-jwt-bearer", "Fastify", "With @fastify/jwt"),
        *("Hono", "With jose", "Node's own http"),
    ]
    for each in OURS:
        # The guide has the same service, and it is protected in at most 6 lines of its own.
        assert each in GUIDE
        assert 3 <= len(re.findall(r"^.*keyosk.*$", each.text, re.MULTILINE | re.IGNORECASE)) <= 6


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with services.user_folder() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def todo(admin: Client) -> None:
    services.make_todo(admin)


@pytest.mark.parametrize("snippet", GUIDE, ids=lambda snippet: snippet.title)
def test_a_service_refuses_bad_tokens(server: LiveServer, folder: Path, snippet: Snippet) -> None:
    more = ["--revocations"] if snippet.is_ours else []
    verdicts = services.verdicts(server, folder, snippet, *more)
    assert len(verdicts) >= 25
    if not snippet.is_ours:
        assert verdicts.pop("revoked") == "not polled"  # as the guide says
    assert set(verdicts.values()) == {"right"}, verdicts


def test_a_service_is_tested_without_a_server(folder: Path) -> None:
    (test,) = (each.text for each in PAGE if each.is_test)
    assert test in {each.text for each in README}
    service = next(each.text for each in OURS)
    exported = service.replace('app.listen(8081, "127.0.0.1");', "export { app };")
    assert exported != service
    (folder / "todo.js").write_text(exported)
    (folder / "todo.test.js").write_text(test)
    ran = services.run(folder, "node", "todo.test.js")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    assert "# pass 1\n" in ran.stdout


@pytest.fixture
def quick_server(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    """A Keyosk whose keys change within seconds."""
    times = {"key_publish_ahead": "5", "key_retain": "3", "token_lifetime": "60"}
    with LiveServer(database_url, tmp_path, **times) as server:
        yield server


def status(address: str, token: str) -> int:
    bearer = {"Authorization": f"Bearer {token}"}
    return requests.get(address, headers=bearer, timeout=60).status_code


def test_services_refuse_what_is_revoked_offline(own_server: LiveServer, folder: Path) -> None:
    own_server.start()
    admin = own_server.admin()
    services.make_todo(admin)
    person, other = (make_person(admin, "todo:read") for _ in range(2))
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(services.running(folder, each, own_server.url)) for each in OURS
        ]
        revoked, kept = (
            own_server.client(each.username, make_key(admin, each)[1])
            .post("/auth/token", data={"format": "token", "audience": "todo"})
            .text.strip()
            for each in (person, other)
        )
        for token in (revoked, kept):
            assert {status(address, token) for address in addresses} == {200}
        assert admin.delete(f"{person.path}/tokens").ok
        end = time.monotonic() + 60
        while {status(address, revoked) for address in addresses} != {401}:
            assert time.monotonic() < end, "still accepted"
            time.sleep(0.2)
        assert own_server.stop() == 0
        for _ in range(3):
            assert {status(address, kept) for address in addresses} == {200}
            assert {status(address, revoked) for address in addresses} == {401}
            time.sleep(4)  # so that polls fail meanwhile


def test_rotations_under_load_refuse_no_good_token(quick_server: LiveServer, folder: Path) -> None:
    admin = quick_server.admin()
    services.make_todo(admin)
    person = make_person(admin, "todo:read")
    client = quick_server.client(person.username, make_key(admin, person)[1])
    counted: Counter[int] = Counter()
    kids: set[str] = set()
    stop = threading.Event()
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(services.running(folder, each, quick_server.url)) for each in OURS
        ]

        def load() -> None:
            while not stop.is_set():
                text = client.post("/auth/token", data={"format": "token"}).text.strip()
                kids.add(text.split(".")[0])
                counted.update(status(address, text) for address in addresses)

        loading = threading.Thread(target=load)
        loading.start()
        try:
            # By password, because a token lasts for less than this.
            by_password = quick_server.client("admin", ADMIN_PASSWORD)
            assert all(rotated(by_password) for _ in range(10))
        finally:
            stop.set()
            loading.join()
    assert set(counted) == {200}
    assert len(kids) == 11
