"""What was issued and refused per minute, over all nodes, and which nodes there are."""

from typing import Any

import pytest

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.errors import KeyoskError
from keyosk.installation import Installation
from keyosk.model import Node
from live import ADMIN_PASSWORD, Client, LiveServer
from people import make_person, ok
from tables import table
from waiting import until

pytestmark = pytest.mark.every_database

ADMIN = ("admin", ADMIN_PASSWORD)


def get(installation: Installation, path: str, **query: Any) -> Any:
    response = app.create_app(installation).test_client().get(path, query_string=query, auth=ADMIN)
    assert response.status_code == 200, response.text
    return response.json


def ask(installation: Installation, *, wrong: int, right: int) -> None:
    client = app.create_app(installation).test_client()
    for _ in range(right):
        assert client.post("/auth/token", auth=ADMIN).status_code == 200
    for _ in range(wrong):
        assert client.post("/auth/token", auth=("admin", "wrong")).status_code == 401


def test_all_nodes_are_added_up_by_step(prepared_url: str) -> None:
    clock = Clock(1_900_000_040)
    with installed(prepared_url, clock=clock) as one, installed(prepared_url, clock=clock) as two:
        ask(one, right=2, wrong=1)
        ask(two, right=1, wrong=0)
        assert get(one, "/activity")["items"][-1]["tokens_issued"] == 0
        one.activity.write()
        two.activity.write()
        clock.now += 60
        ask(one, right=0, wrong=1)
        one.activity.write()
        one.activity.write()  # nothing is counted twice
        activity = get(two, "/activity", step=60)
        assert len(activity["items"]) == 1441
        assert activity["items"][-2:] == [
            {
                "time": "2030-03-17T17:47:00Z",
                "tokens_issued": 3,
                "tokens_refused": {"invalid_client": 1},
                "logins_refused": {"wrong": 1},
            },
            {
                "time": "2030-03-17T17:48:00Z",
                "tokens_issued": 0,
                "tokens_refused": {"invalid_client": 1},
                "logins_refused": {"wrong": 1},
            },
        ]
        items = get(two, "/activity", since="2030-03-17T17:00:00Z", step=3600)["items"]
        assert [item["tokens_refused"] for item in items] == [{"invalid_client": 2}]


def test_what_is_older_than_two_days_or_from_a_clock_ahead_goes(prepared_url: str) -> None:
    clock = Clock()
    with installed(prepared_url, clock=clock) as keyosk:
        for moment in (clock.now + 10 * 86_400, clock.now):
            clock.now = moment
            ask(keyosk, right=1, wrong=0)
            keyosk.activity.write(Node(name=str(moment), version="1", started_at=1, seen_at=1))
        assert len(rows_of(keyosk, "SELECT * FROM activity")) == 1
        assert [node["name"] for node in get(keyosk, "/nodes")["items"]] == [str(clock.now)]
        clock.now += 3 * 86_400
        keyosk.activity.write()
        assert rows_of(keyosk, "SELECT * FROM activity") == []
        assert get(keyosk, "/nodes")["items"] == []


def test_counts_wait_while_the_database_cannot_be_written(prepared_url: str) -> None:
    clock = Clock()
    with installed(prepared_url, clock=clock) as keyosk:
        ask(keyosk, right=1, wrong=0)
        raw = keyosk.database.raw
        raw.execute_sql("ALTER TABLE activity RENAME TO away")
        with pytest.raises(KeyoskError):
            keyosk.activity.write()
        raw.execute_sql("ALTER TABLE away RENAME TO activity")
        clock.now += 60
        keyosk.activity.write()
        assert [row[2] for row in rows_of(keyosk, "SELECT * FROM activity")] == [1]


def test_a_node_that_no_longer_says_so_is_down(prepared_url: str) -> None:
    clock = Clock()
    began = int(clock.now)
    with installed(prepared_url, clock=clock) as keyosk:
        nodes = [
            Node(name=name, version="1.2.3", started_at=began, seen_at=began)
            for name in ("api-1:8080", "api-2:8080")
        ]
        for node in nodes:
            keyosk.activity.write(node)
        clock.now += 121
        keyosk.activity.write(nodes[1])
        one, two = get(keyosk, "/nodes")["items"]
        assert (one["name"], one["is_up"], one["version"]) == ("api-1:8080", False, "1.2.3")
        assert (two["name"], two["is_up"]) == ("api-2:8080", True)
        assert two["last_seen_at"] > two["started_at"] == one["last_seen_at"]


def test_a_server_writes_by_itself(server: LiveServer, admin: Client) -> None:
    assert make_person(admin).login().post("/auth/token").status_code == 200

    def is_written() -> bool:
        items = ok(admin.get("/activity"))["items"]
        return any(item["tokens_issued"] > 0 for item in items)

    until(is_written, pause=0.2)
    # Another test may have had a server of its own on this database.
    port = server.url.rsplit(":", 1)[1]
    [node] = [each for each in ok(admin.get("/nodes"))["items"] if each["name"].endswith(port)]
    assert node["is_up"] is True


@table("query", [{"step": "7"}, {"step": "x"}, {"since": "yesterday"}, {"more": "1"}])
def test_a_wrong_parameter_is_named(admin: Client, query: dict[str, str]) -> None:
    response = admin.get("/activity", params=query)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == next(iter(query))
