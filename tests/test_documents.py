"""Signed documents that are no access tokens, and the verifiers that must not take them for one."""

from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from joserfc import jwk as jose_jwk
from joserfc import jwt as jose_jwt
from joserfc.errors import JoseError

import node_modules
from installed import installed, rows_of
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import Client, LiveServer
from people import claims_of, make_person, make_service, ok
from tables import table


def revocation_list(server: LiveServer) -> str:
    response = server.client().get("/auth/revocations", headers={"Accept": "application/jwt"})
    assert response.status_code == 200, response.text
    return response.text.strip()


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture(scope="module")
def good(admin: Client, todo: str) -> str:
    text: str = ok(make_person(admin, f"{todo}:read").login().post("/auth/token"))["access_token"]
    return text


@pytest.mark.slow
def test_fastify_takes_a_token_but_no_list(server: LiveServer, todo: str, good: str) -> None:
    given = {
        "jwksPath": "/auth/jwks",
        "issuer": server.url,
        "audience": todo,
        "tokens": [good, revocation_list(server)],
    }
    assert node_modules.run("fastify.mjs", given) == [200, 401]


def test_pyjwt_refuses_the_revocation_list_with_and_without_an_audience(
    server: LiveServer, todo: str, good: str
) -> None:
    keys = jwt.PyJWKClient(f"{server.url}/auth/jwks")

    def verify(text: str, **checks: Any) -> dict[str, Any]:
        key = keys.get_signing_key_from_jwt(text)
        claims: dict[str, Any] = jwt.decode(
            text, key, algorithms=["ES256"], issuer=server.url, **checks
        )
        return claims

    assert verify(good, audience=todo)
    for checks in ({"audience": todo}, {}):
        with pytest.raises(jwt.InvalidAudienceError):
            verify(revocation_list(server), **checks)


def test_joserfc_refuses_the_revocation_list_by_audience(server: LiveServer, todo: str) -> None:
    keys = jose_jwk.KeySet.import_key_set(server.client().get("/auth/jwks").json())
    claims = jose_jwt.decode(revocation_list(server), keys, algorithms=["ES256"]).claims
    # Without "essential": many verifiers look only at a claim that is there.
    with pytest.raises(JoseError, match="aud"):
        jose_jwt.JWTClaimsRegistry(aud={"value": todo}).validate(claims)


def test_the_revocation_list_is_for_its_own_endpoint_and_about_nobody(server: LiveServer) -> None:
    text = revocation_list(server)
    assert claims_of(text)["aud"] == f"{server.url}/auth/revocations"
    assert claims_of(text).keys() == {"iss", "aud", "iat", "exp", "sequence", "since", "entries"}
    assert jwt.get_unverified_header(text)["typ"] == "revocations+jwt"


def test_keyosk_takes_the_revocation_list_nowhere(server: LiveServer, todo: str) -> None:
    bearer = Client(server.url, token=revocation_list(server))
    for path in ("/accounts/me", f"/auth/forward/{todo}", "/auth/forward?service=keyosk"):
        assert bearer.get(path).status_code == 401


@table("path", ["/auth/revocations", "/audit"])
def test_no_service_may_have_the_audience_of_a_document(
    server: LiveServer, admin: Client, path: str
) -> None:
    response = admin.post("/services", json={"name": "documents", "audience": server.url + path})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["audience"]


# --- Checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def audited(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as keyosk:
        keyosk.audit.record(OPERATOR, "role.change", None)
        keyosk.audit.seal()
        yield keyosk


def test_a_checkpoint_is_for_the_audit_log_and_about_nobody(audited: Installation) -> None:
    ((text,),) = rows_of(audited, "SELECT signature FROM checkpoint")
    assert claims_of(text).keys() == {"iss", "aud", "iat", "sequence", "hash"}
    assert claims_of(text)["aud"] == f"{audited.issuer}/audit"
    assert jwt.get_unverified_header(text)["typ"] == "keyosk-checkpoint+jwt"
    assert audited.audit_verifier.verify().fault is None


@pytest.mark.parametrize(
    "claims", [{"sub": "x"}, {"scope": "x"}, {"client_id": "x"}, {"aud": "todo"}, {"iss": "x"}]
)
def test_no_document_can_say_who_somebody_is(audited: Installation, claims: Any) -> None:
    with pytest.raises(ValueError, match="access token"):
        audited.documents.sign(claims, typ="x+jwt", path="/audit")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT"])
def test_no_document_has_the_type_of_a_token(audited: Installation, typ: str) -> None:
    with pytest.raises(ValueError, match="access token"):
        audited.documents.sign({}, typ=typ, path="/audit")
