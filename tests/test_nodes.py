"""Nodes that share nothing but PostgreSQL, behind HAProxy, with clocks that differ."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import jwt
import pytest
import requests

from live import ADMIN_PASSWORD, Client, unique
from nodes import Cluster, cluster
from people import ok
from postgres import PostgresServer
from waiting import until

# Part of `make test-long`.
pytestmark = pytest.mark.slow

PASSWORD = "a password on many nodes"
CLOCKS = (0, 5, 3, 0)  # seconds; the last node joins later


@pytest.fixture(scope="module")
def nodes(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    url = postgres_server.create_database()
    folder = tmp_path_factory.mktemp("nodes")
    with cluster(url, folder, clocks=CLOCKS, running=3, shutdown_delay="3") as started:
        yield started


@pytest.fixture(scope="module")
def admin(nodes: Cluster) -> Client:
    """The first admin, through HAProxy."""
    login = Client(nodes.url, auth=("admin", ADMIN_PASSWORD))

    def token_of_admin() -> str | None:
        response = login.post("/auth/token", data={"audience": "keyosk"})
        return response.json()["access_token"] if response.ok else None

    return Client(nodes.url, token=until(token_of_admin))


def at(nodes: Cluster, username: str = "admin", secret: str = ADMIN_PASSWORD) -> list[Client]:
    """A login at each of the first three nodes."""
    return [Client(node.url, auth=(username, secret)) for node in nodes.nodes[:3]]


def person(admin: Client) -> str:
    name = unique("person")
    body = {"username": name, "password": PASSWORD, "grants": {"scopes": ["keyosk:audit:read"]}}
    ok(admin.post("/accounts", json=body), 201)
    return name


def token(client: Client, **form: str) -> Any:
    response = client.post("/auth/token", data=form)
    assert response.status_code == 200, response.text
    return response.json()


def bearer(client: Client, text: str) -> Client:
    return Client(client.url, token=text)


def test_a_token_of_one_node_is_good_on_all(nodes: Cluster, admin: Client) -> None:
    name = person(admin)
    for issuing, checking in product(at(nodes, name, PASSWORD), at(nodes)):
        text = token(issuing, audience="keyosk")["access_token"]
        response = bearer(checking, text).get("/accounts/me")
        assert response.status_code == 200, (issuing.url, checking.url, response.text)
        introspected = checking.post("/auth/introspect", data={"token": text}).json()
        assert introspected["active"], (issuing.url, checking.url)


def test_what_is_revoked_on_one_node_is_revoked_on_all(nodes: Cluster, admin: Client) -> None:
    for revoking in range(3):
        name = person(admin)
        texts = [
            token(each, audience="keyosk")["access_token"] for each in at(nodes, name, PASSWORD)
        ]
        address = f"{nodes.nodes[revoking].url}/accounts/{name}/tokens"
        authorization = admin.session.headers["Authorization"]
        revoked = requests.delete(
            address, headers={"Authorization": str(authorization)}, timeout=30
        )
        assert revoked.ok, revoked.text
        for text, checking in product(texts, at(nodes)):
            introspected = checking.post("/auth/introspect", data={"token": text}).json()
            assert not introspected["active"], (revoking, checking.url)
            response = bearer(checking, text).get("/accounts/me")
            assert response.status_code == 401, (revoking, checking.url, response.text)

        def works_again(name: str = name) -> bool:
            responses = [
                each.post("/auth/token", data={"audience": "keyosk"})
                for each in at(nodes, name, PASSWORD)
            ]
            return all(
                bearer(checking, each.json()["access_token"]).get("/accounts/me").ok
                for each, checking in product(responses, at(nodes))
            )

        until(works_again)  # once the clocks that are behind have reached the second of the others


def test_a_request_sent_again_to_another_node_has_one_effect(nodes: Cluster, admin: Client) -> None:
    authorization = {"Authorization": str(admin.session.headers["Authorization"])}
    headers = authorization | {"Idempotency-Key": unique("once")}
    body = {"username": unique("once")}

    def send(number: int) -> requests.Response:
        url = f"{nodes.nodes[number % 3].url}/accounts"
        return requests.post(url, json=body, headers=headers, timeout=30)

    with ThreadPoolExecutor(6) as pool:
        responses = [*pool.map(send, range(6)), *map(send, range(3))]
    assert {response.status_code for response in responses} <= {201, 409}
    assert (
        len({response.json()["id"] for response in responses if response.status_code == 201}) == 1
    )
    assert [response.status_code for response in responses[6:]] == [201] * 3


def test_a_refresh_session_goes_on_at_every_node(nodes: Cluster, admin: Client) -> None:
    first, second, third = at(nodes, person(admin), PASSWORD)
    assert admin.patch("/services/keyosk", json={"refresh_allowed": True}).ok
    form_of_login = {"audience": "keyosk", "scope": "keyosk:audit:read offline_access"}
    refresh = token(first, **form_of_login)["refresh_token"]
    used = []
    for client in (second, third, first, third, second):
        used.append(refresh)
        anyone = Client(client.url)
        form = {"grant_type": "refresh_token", "refresh_token": refresh}
        refresh = token(anyone, **form)["refresh_token"]
    # A refresh token that was used before counts as stolen: the session ends on all nodes.
    stolen = {"grant_type": "refresh_token", "refresh_token": used[0]}
    assert Client(third.url).post("/auth/token", data=stolen).status_code == 400
    for client in (first, second, third):
        form = {"grant_type": "refresh_token", "refresh_token": refresh}
        assert Client(client.url).post("/auth/token", data=form).status_code == 400


def test_a_rotation_reaches_all_nodes_and_no_token_is_lost(nodes: Cluster, admin: Client) -> None:
    rotated = admin.post("/signing-keys/rotate", json={"now": True})
    assert rotated.status_code == 201, rotated.text
    kid = rotated.json()["kid"]
    signers: set[str] = set()
    clients = at(nodes)
    deadline = time.monotonic() + 60
    while signers != {kid}:
        signers = set()
        for issuing in clients:
            header = jwt.get_unverified_header(token(issuing)["access_token"])
            signers.add(header["kid"])
            for checking in clients:
                kids = [key["kid"] for key in checking.get("/auth/jwks").json()["keys"]]
                assert header["kid"] in kids, (issuing.url, checking.url)
        assert time.monotonic() < deadline


def test_wrong_passwords_are_counted_over_all_nodes(nodes: Cluster, admin: Client) -> None:
    name = person(admin)
    wrong, statuses = Client(nodes.url, auth=(name, "a wrong password, again")), Counter[int]()
    while not statuses[429]:
        statuses[wrong.post("/auth/token").status_code] += 1
        assert sum(statuses.values()) < 30, statuses
    assert set(statuses) == {401, 429}
    assert statuses[401] <= 15
    for node in nodes.nodes[:3]:  # all guesses came from one address
        right = requests.post(f"{node.url}/auth/token", auth=(name, PASSWORD), timeout=30)
        assert right.status_code == 429


def test_nodes_join_and_leave_under_load_unnoticed(nodes: Cluster, admin: Client) -> None:
    name = person(admin)
    key = admin.post(f"/accounts/{name}/api-keys", json={"name": "load"}).json()["secret"]
    results: Counter[str] = Counter()
    stopping = threading.Event()
    authorization = str(admin.session.headers["Authorization"])

    def load(number: int) -> None:
        # Half of the clients keep their connections, the others do not.
        session = requests.Session()
        while not stopping.is_set():
            if number % 4 == 3:
                response = session.patch(
                    f"{nodes.url}/accounts/{name}",
                    json={"display_name": f"{number} {time.monotonic()}"},
                    headers={"Authorization": authorization},
                    timeout=30,
                )
            else:
                login = {"Authorization": f"Bearer {key}"}
                response = session.post(f"{nodes.url}/auth/token", headers=login, timeout=30)
            results["good" if response.ok else f"{response.status_code} {response.text}"] += 1
            if number % 2:
                session.close()
                session = requests.Session()
            time.sleep(0.02)

    *_, leaving, joining = nodes.nodes
    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(load, number) for number in range(6)]
        try:
            joining.start()
            nodes.wait_for(joining, "UP")
            assert leaving.process is not None
            leaving.process.terminate()
            # It said so itself, and still answers what comes.
            assert nodes.wait_for(leaving, "DOWN") == "503"
            assert leaving.stop() == 0
            # And comes back, as after an upgrade.
            leaving.start()
            nodes.wait_for(leaving, "UP")
            joining.process.terminate()  # type: ignore[union-attr]
            nodes.wait_for(joining, "DOWN")
            assert joining.stop() == 0
        finally:
            stopping.set()
        for client in clients:
            client.result()
    assert set(results) == {"good"}, results
    assert results["good"] > 20
