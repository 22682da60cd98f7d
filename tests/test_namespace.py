"""Names and audiences of services are one namespace, and an audience may have several spellings."""

import json
import threading
from importlib import import_module
from typing import Any

import pytest
import requests

import live
from keyosk.apply.manifest import Manifest
from keyosk.errors import Conflict, Invalid
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from keyosk.storage import tables
from keyosk.web import bodies
from keyosk.web.manifest_schemas import ManifestSchema, manifest_of
from live import Client, LiveServer
from people import assert_refused, claims_of, make_person, make_service, ok, problem
from tables import table

pytestmark = pytest.mark.every_database


def make(client: Client, **fields: Any) -> requests.Response:
    return client.post("/services", json={"name": live.unique("svc"), **fields})


def assert_taken(response: requests.Response, field: str) -> None:
    assert_refused(response, "conflict", 409)
    assert [fault["field"] for fault in response.json()["errors"]] == [field]


@pytest.mark.attack
@table("field", ["audience", "audiences"])
def test_a_new_service_took_another_s_name_as_its_audience(admin: Client, field: str) -> None:
    victim = make_service(admin)
    url = f"https://{victim}.example.com/api"
    second = make_service(admin)
    ok(admin.patch(f"/services/{second}", json={"audience": url, "audiences": [f"{url}/v2"]}))
    own = make_service(admin)
    victim_id = ok(admin.get(f"/services/{victim}"))["id"]
    for taken in (
        victim,
        victim.upper(),
        f"{victim}/",
        victim_id,
        url,
        f"{url}/",
        url.replace("https", "HTTPS"),
        url.replace(".com", ".COM:443"),
        f"{url}/v2",
        "keyosk",
        "KEYOSK/",
    ):
        value = taken if field == "audience" else ["urn:mine", taken]
        assert_taken(make(admin, **{field: value}), field)
        assert_taken(admin.patch(f"/services/{own}", json={field: value}), field)
    assert ok(admin.get(f"/services/{own}"))["audience"] == own


@pytest.mark.attack
def test_a_new_service_took_another_s_audience_as_its_name(admin: Client) -> None:
    audience, other = live.unique("aud"), live.unique("aud")
    make_service(admin, audience=audience, audiences=[other])
    own = make_service(admin)
    for taken in (audience, other):
        assert_taken(admin.post("/services", json={"name": taken}), "name")
        assert_taken(admin.patch(f"/services/{own}", json={"name": taken}), "name")


@pytest.mark.attack
def test_no_service_is_addressed_as_the_issuer(server: LiveServer, admin: Client) -> None:
    issuer = ok(server.client().get("/.well-known/oauth-authorization-server"))["issuer"]
    service = make_service(admin)
    for taken in (issuer, f"{issuer}/", issuer.upper()):
        for field, value in (("audience", taken), ("audiences", [taken])):
            for response in (
                make(admin, **{field: value}),
                admin.patch(f"/services/{service}", json={field: value}),
            ):
                problem(response, 422, field)


def test_what_a_service_gives_up_another_may_have(admin: Client) -> None:
    first = make_service(admin)
    audience = live.unique("aud")
    ok(
        admin.patch(
            f"/services/{first}", json={"audience": audience, "audiences": ["urn:" + first]}
        )
    )
    ok(admin.patch(f"/services/{first}", json={"audience": first}))
    ok(admin.patch(f"/services/{first}", json={"audiences": None}))
    ok(make(admin, audience=audience, audiences=["urn:" + first]), 201)
    gone = make_service(admin)
    ok(admin.delete(f"/services/{gone}"), 204)
    ok(admin.post("/services", json={"name": gone}), 201)


def test_of_two_services_with_one_identifier_one_is_made(server: LiveServer, admin: Client) -> None:
    shared = live.unique("both")
    bodies = [{"name": shared}, {"name": live.unique("svc"), "audience": shared}] * 4
    ended: list[int] = []

    def send(body: dict[str, Any]) -> None:
        ended.append(server.admin().post("/services", json=body).status_code)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ended) == [201] + [409] * 7


# --- Several spellings ----------------------------------------------------------------------------


def test_every_spelling_of_an_audience_gets_a_token_for_the_one_audience(admin: Client) -> None:
    name = live.unique("todo")
    audience, others = (
        f"https://{name}.example.com",
        [f"https://{name}.example.com/", f"urn:{name}"],
    )
    body = {"name": name, "audience": audience, "audiences": others, "scopes": [f"{name}:read"]}
    service = ok(admin.post("/services", json=body), 201)
    assert (service["audience"], service["audiences"]) == (audience, others)
    person = make_person(admin, f"{name}:read")
    for spelling in (name, audience, *others):
        for parameter in ("audience", "resource"):
            response = person.login().post("/auth/token", data={parameter: spelling})
            token = ok(response)
            claims = claims_of(token["access_token"])
            assert (claims["aud"], token["scope"]) == (audience, f"{name}:read")
    for spelling in (f"{audience}//", audience.upper(), f"urn:{name}/", service["id"]):
        response = person.login().post("/auth/token", data={"audience": spelling})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_target")
    asked = {"audience": [others[0]], "scope": f"{name}:read"}
    assert ok(person.login().post("/auth/explain", json=asked))["claims"]["aud"] == audience

    changed = ok(admin.patch(f"/services/{name}", json={"audiences": [others[1], others[1]]}))
    assert changed["audiences"] == [others[1]]
    response = person.login().post("/auth/token", data={"resource": others[0]})
    assert response.status_code == 400
    rows = ok(admin.get("/audit", params={"target": f"service/{name}"}))["items"]
    assert any((row["after"] or {}).get("audiences") == [others[1]] for row in rows)


@table(
    "value",
    [
        "x",
        [1],
        [""],
        ["a b"],
        ["https://a.example.com/#x"],
        ["ü"],
        ["x" * 256],
        [f"u{n}" for n in range(21)],
    ],
)
def test_what_is_no_audience_is_no_spelling_of_one(admin: Client, value: Any) -> None:
    response = make(admin, audiences=value)
    assert_refused(response, "invalid", 422)
    assert response.json()["errors"][0]["field"].startswith("audiences")


# --- What there was before ------------------------------------------------------------------------


def test_what_two_services_shared_before_is_told_and_stays(installation: Installation) -> None:
    services, database = installation.services, installation.database
    old = services.create(OPERATOR, name="old", audience="urn:old")
    new = services.create(OPERATOR, name="new")
    with database.transaction():  # as it could be before
        key = tables.ServiceIdentifier
        database.write(key.delete().where((key.service == new.id) & (key.key == "new")))
        table = tables.Service
        database.write(table.update(audience="old").where(table.id == new.id))

    (finding,) = [each for each in installation.maintenance.check() if each.name == "services"]

    assert finding.faults == ("old is the name or an audience of more than one service: old, new",)
    policy = services.policy_for("old")
    assert policy is not None
    assert policy.name == old.name
    services.change(OPERATOR, "new", {"title": "Still to be changed"})
    with pytest.raises(Conflict):
        services.change(OPERATOR, "new", {"audiences": ["urn:new"]})
    services.change(OPERATOR, "new", {"audience": "new"})
    (finding,) = [each for each in installation.maintenance.check() if each.name == "services"]
    assert finding.faults == ()


def test_an_upgrade_gives_a_shared_identifier_to_the_older(installation: Installation) -> None:
    migration = import_module("keyosk.storage.migrations.0009_service_identifiers")
    services, database = installation.services, installation.database
    old = services.create(OPERATOR, name="old", audience="https://old.example.com/")
    new = services.create(OPERATOR, name="new")
    table, key = tables.Service, tables.ServiceIdentifier
    with database.transaction():
        database.write(table.update(audience="old").where(table.id == new.id))
        database.write(key.delete())
        migration.fill(database.raw)

    rows = {row["key"]: row["service"] for row in database.rows(key.select())}
    assert rows["old"] == old.id
    assert rows["https://old.example.com"] == old.id
    assert rows["new"] == rows[new.id] == new.id
    assert rows["keyosk"] == services.get("keyosk").id


def manifest(document: Any) -> Manifest:
    return manifest_of(bodies.checked(ManifestSchema(), document))


def test_a_manifest_with_a_shared_identifier_is_refused_there(installation: Installation) -> None:
    installation.services.create(OPERATOR, name="todo")
    document = json.loads(
        '{"services": [{"name": "other", "audience": "urn:other", "audiences": ["todo"]}]}'
    )
    with pytest.raises(Invalid) as refused:
        installation.manifests.apply(OPERATOR, manifest(document))
    assert [fault.field for fault in refused.value.faults] == ["services.0.audiences"]

    document["services"][0]["audiences"] = ["urn:other/"]
    (step,) = installation.manifests.apply(OPERATOR, manifest(document))
    assert step.after["audiences"] == ("urn:other/",)
    assert installation.manifests.apply(OPERATOR, manifest(document)) == ()


@pytest.mark.every_database
def test_a_service_is_not_shown_the_tokens_of_one_that_had_its_audience_before(
    server: LiveServer, admin: Client
) -> None:
    audience = live.unique("aud")
    first = make_service(admin, audience=audience)
    person = make_person(admin, f"{first}:read")
    text = ok(person.login().post("/auth/token", data={"audience": audience}))["access_token"]
    changed = ok(admin.patch(f"/services/{first}", json={"audience": live.unique("aud")}))
    assert changed["effective_at_latest"]

    make_service(admin, audience=audience)
    assert ok(person.login().post("/auth/introspect", data={"token": text})) == {"active": False}
    entries = ok(server.client().get("/auth/revocations"))["entries"]
    [entry] = [each for each in entries if each.get("aud") == audience]
    assert claims_of(text)["iat"] < entry["issued_before"]
