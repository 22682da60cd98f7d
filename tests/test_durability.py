"""What survives a kill, and what a stop still finishes."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import jwt
import pytest
import requests

from live import ADMIN_PASSWORD, Client, LiveServer
from people import ok

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.every_database]

PASSWORD = "seven quiet herons wade"
SCOPES = ["durable:read", "durable:write"]
WRITERS = 4
ROUNDS = 2
ENOUGH = 8  # acknowledged in a round before the kill


@dataclass
class Record:
    """What the writers were told, over all rounds."""

    asked: set[str] = field(default_factory=set)
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, number: int) -> None:
        with self.changed:
            is_reached = self.changed.wait_for(lambda: len(self.acknowledged) >= number, timeout=60)
        assert is_reached, (
            f"{len(self.acknowledged)} of {number} accounts acknowledged: {self.refused}"
        )


def write(server: LiveServer, token: str, names: Any, record: Record) -> None:
    """Make accounts until the server is gone."""
    client = Client(server.url, token=token)
    with client.session:
        while True:
            name = f"survivor-{next(names)}"
            record.asked.add(name)
            body = {"username": name, "password": PASSWORD, "grants": {"scopes": SCOPES}}
            try:
                response = client.post("/accounts", json=body)
            except requests.RequestException:
                return
            with record.changed:
                if response.status_code == 201:
                    record.acknowledged.append(name)
                else:
                    record.refused.append(response.text)
                record.changed.notify_all()


def survivors(client: Client) -> dict[str, dict[str, Any]]:
    accounts: dict[str, dict[str, Any]] = {}
    path: str | None = "/accounts?limit=200"
    while path is not None:
        response = client.get(path)
        assert response.status_code == 200, response.text
        accounts |= {
            item["username"]: item
            for item in response.json()["items"]
            if item["username"].startswith("survivor-")
        }
        path = response.links.get("next", {}).get("url")
    return accounts


def kid_of(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


def verify(server: LiveServer, token: str) -> dict[str, Any]:
    """Check a token as a service does: with the keys that the server publishes now."""
    published = jwt.PyJWKSet.from_dict(requests.get(f"{server.url}/auth/jwks", timeout=60).json())
    claims: dict[str, Any] = jwt.decode(
        token, published[kid_of(token)], algorithms=["ES256"], audience="keyosk", issuer=server.url
    )
    return claims


def token_of(client: Client) -> str:
    return str(client.session.headers["Authorization"]).removeprefix("Bearer ")


def test_a_kill_amid_writes_loses_no_acknowledged_account_or_half(own_server: LiveServer) -> None:
    server = own_server
    server.start()
    admin = server.admin()
    token = token_of(admin)
    service = {"name": "durable", "scopes": SCOPES}
    grants = {"scopes": SCOPES, "roles": []}
    ok(admin.post("/services", json=service), 201)
    record, names = Record(), count(1)

    for round_ in range(1, ROUNDS + 1):
        before = len(record.acknowledged)
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [pool.submit(write, server, token, names, record) for _ in range(WRITERS)]
            record.wait_for(before + ENOUGH)
            server.kill()
        for writer in writers:
            writer.result()
        assert record.refused == []
        server.start()

        # The admin's old token works on: the signing key is the same.
        surviving = survivors(admin)
        assert set(record.acknowledged) <= surviving.keys() <= record.asked, round_
        assert (
            len(surviving) - len(record.acknowledged) <= round_ * WRITERS
        )  # only what was under way
        for name, account in surviving.items():
            assert account["has_password"], name
            assert admin.get(f"/accounts/{name}/grants").json() == grants, name

    # And whoever was acknowledged last can log in.
    response = server.client(record.acknowledged[-1], PASSWORD).post("/auth/token").json()
    assert set(response["scope"].split()) == set(SCOPES)
    assert server.stop() == 0


def test_a_stop_finishes_its_work_and_the_next_start_has_its_key(own_server: LiveServer) -> None:
    server = own_server
    # Slow hashes, so that there is a middle to stop in.
    server.environment |= {"KEYOSK_ARGON2_TIME_COST": "8", "KEYOSK_WORKERS": "2"}
    server.start()
    admin = server.admin()
    old, published = token_of(admin), admin.get("/auth/jwks").json()
    assert verify(server, old)["client_id"] == "admin"
    logins = 8
    first = threading.Event()
    connected = threading.Barrier(logins + 1)

    def login(_: int) -> int:
        client = server.client("admin", ADMIN_PASSWORD)
        with client.session:
            client.get("/health/live")  # the connection is there before the login begins
            connected.wait(60)
            response = client.post("/auth/token")
        first.set()
        return response.status_code

    with ThreadPoolExecutor(logins) as pool:
        waiting = [pool.submit(login, number) for number in range(logins)]
        connected.wait(60)
        assert first.wait(60)  # one is answered, so the others are read and being hashed
        assert server.process is not None
        server.process.terminate()
        under_way = sum(not each.done() for each in waiting)
        statuses = [each.result(timeout=60) for each in waiting]
    assert under_way > 0
    assert statuses == [200] * logins
    assert server.stop() == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    assert "Traceback" not in server.log.read_text()

    server.start()
    assert admin.get("/auth/jwks").json() == published
    assert verify(server, old)["client_id"] == "admin"
    assert admin.get("/accounts/me").status_code == 200  # by the old token
    new = token_of(server.admin())
    assert kid_of(new) == kid_of(old) == published["keys"][0]["kid"]
    assert verify(server, new)["jti"] != verify(server, old)["jti"]
    assert server.stop() == 0
