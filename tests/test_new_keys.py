"""Signing keys are generated before the transaction that publishes them: nobody waits for one.

A generation is held up here, and meanwhile another process writes. On SQLite, where one writer at
a time is all there is, that is only possible while no transaction is open.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from installed import Clock, installed
from keyosk import app
from keyosk.apply.manifest import Manifest, ManifestEntry
from keyosk.installation import Installation
from keyosk.keys import material
from keyosk.model import OPERATOR
from live import ADMIN_PASSWORD

ALGORITHM = "EdDSA"


@pytest.fixture
def keyosk(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as made:
        made.services.create(OPERATOR, name="todo")
        yield made


@pytest.fixture
def other(keyosk: Installation, prepared_url: str) -> Iterator[Installation]:
    """The same installation as another process has it."""
    with installed(prepared_url) as made:
        yield made


def by_request(
    keyosk: Installation, method: str, path: str, body: Any = None, key: str = ""
) -> Any:
    client = app.create_app(keyosk).test_client()
    response = client.open(
        path,
        method=method,
        json=body,
        auth=("admin", ADMIN_PASSWORD),
        headers={"Idempotency-Key": key} if key else None,
    )
    assert response.status_code < 300, response.text
    return response


def manifest() -> Manifest:
    return Manifest(
        owner=None,
        prune=False,
        services=(ManifestEntry("services.0", "todo", {"signing_algorithm": ALGORITHM}),),
    )


CHANGES: Mapping[str, Callable[[Installation], Any]] = {
    "rotate": lambda it: it.rotation.rotate(OPERATOR),
    "rotate, repeatable": lambda it: by_request(it, "POST", "/signing-keys/rotate", key="one"),
    "service": lambda it: it.services.change(OPERATOR, "todo", {"signing_algorithm": ALGORITHM}),
    "manifest": lambda it: it.manifests.apply(OPERATOR, manifest()),
    "manifest, repeatable": lambda it: by_request(
        it,
        "POST",
        "/apply",
        {"services": [{"name": "todo", "signing_algorithm": ALGORITHM}]},
        key="three",
    ),
    "compromise": lambda it: it.rotation.compromise(OPERATOR, it.signing_keys.current.default.kid),
    "compromise, repeatable": lambda it: by_request(
        it,
        "POST",
        f"/signing-keys/{it.signing_keys.current.default.kid}/compromise",
        key="two",
    ),
    "another algorithm at a start": lambda it: it.rotation.publish_for(OPERATOR, ALGORITHM),
    "the first key of an algorithm": lambda it: it.signing_keys.ensure(ALGORITHM),
    "schedule": lambda it: it.key_schedule.advance(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_key_is_generated_while_others_write(
    keyosk: Installation, other: Installation, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "schedule":
        keyosk.database.raw.execute_sql("UPDATE signing_key SET active_from = 1, published_at = 1")
    started, may_end = threading.Event(), threading.Event()
    generate = material.generate

    def slowly(algorithm: str) -> Any:
        started.set()
        assert may_end.wait(30)
        return generate(algorithm)

    def run() -> None:
        try:
            CHANGES[change](keyosk)
        finally:
            keyosk.database.close()  # this thread's own connection

    monkeypatch.setattr(material, "generate", slowly)
    before = len(keyosk.signing_keys.all())
    with ThreadPoolExecutor(1) as threads:
        changed = threads.submit(run)
        try:
            assert started.wait(30)
            # It would wait for four seconds, and then be told that the database is busy.
            other.accounts.change(OPERATOR, "admin", {"display_name": "Written meanwhile"})
            assert len(other.signing_keys.all()) == before
        finally:
            may_end.set()
        changed.result()
    assert len(other.signing_keys.all()) == before + 1


def test_the_key_set_is_made_again_after_changes(keyosk: Installation, other: Installation) -> None:
    before = keyosk.signing_keys.current
    keyosk.signing_keys.refresh()
    assert keyosk.signing_keys.current is before

    new = other.rotation.rotate(OPERATOR)
    keyosk.signing_keys.refresh()
    assert new.kid in keyosk.signing_keys.current.verifiers
    after = keyosk.signing_keys.current
    other.key_changes.rewrap()  # the private halves alone are others now
    keyosk.signing_keys.refresh()
    assert keyosk.signing_keys.current is not after


@pytest.mark.attack
def test_a_key_is_published_when_it_is_stored_not_when_it_was_generated(prepared_url: str) -> None:
    """Until every process has it, nothing is signed by it: that counts from its publication."""
    clock = Clock(time.time())
    with installed(prepared_url, clock=clock) as keyosk:
        with keyosk.rotation.draft_for_rotation() as draft:
            clock.now += 60
            new = keyosk.rotation.rotate(OPERATOR, draft=draft)
        assert draft is not None
        assert (new.kid, new.published_at) == (draft.kid, int(clock()))
        keyosk.rotation.retire(OPERATOR, new.kid)

        stolen = keyosk.signing_keys.current.default.kid
        with keyosk.rotation.draft_for_compromise(stolen) as draft:
            clock.now += 60
            keyosk.rotation.compromise(OPERATOR, stolen, draft=draft)
        assert draft is not None
        following = keyosk.rotation.get(draft.kid)
        assert following.published_at == following.active_from == int(clock())
