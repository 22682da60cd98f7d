"""The key set of a service in an outage: what the database last said of the service."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask.testing import FlaskClient

from installed import installed
from keyosk import app
from keyosk.errors import Unavailable
from keyosk.installation import Installation
from keyosk.keys import bounded_read, service_algorithms
from keyosk.model import OPERATOR
from waiting import until

pytestmark = pytest.mark.every_database


@pytest.fixture
def keyosk(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as made:
        yield made


@pytest.fixture
def client(keyosk: Installation) -> FlaskClient:
    return app.create_app(keyosk).test_client()


def away(*_: object) -> int:
    raise Unavailable("The database is not available.")


@pytest.fixture
def outage(keyosk: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """``undo`` ends it."""
    with monkeypatch.context() as patch:
        yield patch


def begin(outage: pytest.MonkeyPatch, keyosk: Installation) -> None:
    outage.setattr(keyosk.database, "rows", away)
    outage.setattr(keyosk.service_algorithms._of_requested, "_read", away)
    outage.setattr(keyosk.signing_keys._compromised, "_read", away)


def test_a_process_knows_services_that_never_asked_it(
    keyosk: Installation, client: FlaskClient, outage: pytest.MonkeyPatch
) -> None:
    usual = keyosk.services.create(OPERATOR, name="todo")
    keyosk.services.create(OPERATOR, name="bank")
    keyosk.services.change(OPERATOR, "bank", {"signing_algorithm": "ML-DSA-44"})
    keyosk.service_algorithms.remember()
    keyosk.signing_keys.refresh()
    begin(outage, keyosk)
    common = client.get("/auth/jwks")
    assert common.status_code == 200
    for reference in ("todo", usual.id, usual.id.upper()):
        answer = client.get(f"/services/{reference}/jwks")
        assert answer.data == common.data
        assert answer.headers["Cache-Control"].startswith("public, max-age=1,")
    (own,) = client.get("/services/bank/jwks").get_json()["keys"]
    assert own["alg"] == "ML-DSA-44"
    # Whether one exists that was never known cannot be told.
    assert client.get("/services/nothing/jwks").status_code == 503
    assert client.get("/services/No%20Name/jwks").status_code == 404
    outage.undo()
    assert client.get("/services/nothing/jwks").status_code == 404
    assert (
        client.get("/services/todo/jwks").headers["Cache-Control"].startswith("public, max-age=3")
    )


def test_what_a_request_learnt_is_known_before_the_next_minute(
    keyosk: Installation, client: FlaskClient, outage: pytest.MonkeyPatch
) -> None:
    keyosk.service_algorithms.remember()
    for name in ("early", "todo", "gone"):
        keyosk.services.create(OPERATOR, name=name)
    for name in ("todo", "gone"):
        assert client.get(f"/services/{name}/jwks").status_code == 200
    keyosk.services.remove(OPERATOR, "gone")
    assert client.get("/services/gone/jwks").status_code == 404
    begin(outage, keyosk)
    statuses = [
        client.get(f"/services/{name}/jwks").status_code for name in ("todo", "gone", "early")
    ]
    assert statuses == [200, 503, 503]


def test_services_that_were_deleted_or_renamed_are_forgotten_within_a_minute(
    keyosk: Installation, outage: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    known = service_algorithms.ServiceAlgorithms(keyosk._stores.services, lambda: now[0])
    for name in ("gone", "old"):
        keyosk.services.create(OPERATOR, name=name)
    known.remember()
    keyosk.services.remove(OPERATOR, "gone")
    keyosk.services.change(OPERATOR, "old", {"name": "new", "signing_algorithm": "EdDSA"})
    for now[0], expected in ((59.0, {"gone", "old"}), (60.0, {"new"})):
        known.remember()
        assert {*known._remembered} & {"gone", "old", "new"} == expected
    now[0] = 120.0
    begin(outage, keyosk)
    known.remember()  # an outage takes nothing
    assert known._remembered["new"] == "EdDSA"


def test_a_process_remembers_so_many_services_and_no_more(
    keyosk: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_algorithms, "_MOST", 2)
    for name in ("one", "two", "three"):
        keyosk.services.create(OPERATOR, name=name)
    keyosk.service_algorithms.remember()
    assert len(keyosk.service_algorithms._remembered) == 4  # by name and by id


def test_a_read_under_way_has_no_result_for_a_service_that_comes_now(
    keyosk: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_read, "_LONGEST", 30)
    for name in ("one", "two"):
        keyosk.services.create(OPERATOR, name=name)
    algorithms = keyosk.service_algorithms
    has_asked, may_answer = threading.Event(), threading.Event()
    ask = algorithms._of_requested._read

    def slowly() -> Mapping[str, str | None]:
        algorithm = ask()
        has_asked.set()
        assert may_answer.wait(30)
        return algorithm

    monkeypatch.setattr(algorithms._of_requested, "_read", slowly)
    algorithms.start()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(algorithms.of, "one")
        assert has_asked.wait(30)
        second = threads.submit(algorithms.of, "two")
        until(lambda: len(algorithms._requested) == 2)
        may_answer.set()
        assert [each.result(30) for each in (first, second)] == [(None, True)] * 2
    assert algorithms._requested == []
