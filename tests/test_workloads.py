"""Workloads log in with a token that another platform signed (RFC 7523), through HTTP."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from live import Client, LiveServer, unique
from people import PASSWORD, assert_refused, make_person, ok, problem
from platforms import AUDIENCE, KEYS, METADATA, Platform, platform
from shops import JWT_BEARER, Shop, issued_claims
from tables import table

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

pytestmark = pytest.mark.every_database


# --- The wire -------------------------------------------------------------------------------------


def test_a_foreign_token_gets_a_token(shop: Shop) -> None:
    response = shop.present(shop.ci.token())
    body, claims = ok(response), issued_claims(response)
    assert body["token_type"] == "Bearer"
    assert "refresh_token" not in body
    assert claims["preferred_username"] == shop.account
    assert claims["aud"] == shop.service
    assert set(claims["scope"].split()) == {shop.read, shop.write}
    assert claims["amr"] == ["wif"]
    rule = ok(shop.admin.get(f"/issuers/{shop.issuer}/rules/main"))
    assert claims["key_id"] == rule["id"]
    assert rule["last_used_at"] is not None


@pytest.mark.parametrize(
    "parameters",
    [
        {"grant_type": JWT_BEARER, "assertion": ...},
        {
            "grant_type": EXCHANGE,
            "subject_token": ...,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        },
        {
            "grant_type": EXCHANGE,
            "subject_token": ...,
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        },
        {"client_assertion_type": CLIENT_ASSERTION, "client_assertion": ...},
        {
            "grant_type": "client_credentials",
            "client_assertion_type": CLIENT_ASSERTION,
            "client_assertion": ...,
        },
    ],
    ids=["jwt-bearer", "exchange-jwt", "exchange-id-token", "assertion", "client-credentials"],
)
def test_each_way_to_send_it_works(shop: Shop, parameters: dict[str, Any]) -> None:
    token = shop.ci.token()
    data = {name: token if value is ... else value for name, value in parameters.items()}
    anybody = shop.server.client()
    claims = issued_claims(anybody.post("/auth/token", data={**data, "scope": shop.read}))
    assert claims["scope"] == shop.read
    response = shop.server.client("admin", "x").post("/auth/token", data=data)
    assert response.status_code in (400, 401), "a login besides"
    both = {**data, "client_id": shop.account, "client_secret": "x"}
    assert anybody.post("/auth/token", data=both).status_code in (400, 401)
    assert issued_claims(anybody.post("/auth/token", data={**data, "client_id": shop.account}))
    other = anybody.post("/auth/token", data={**data, "client_id": "admin"})
    assert (other.status_code, other.json()["error"]) == (400, "invalid_grant")


def test_a_service_exchanges_its_callers_tokens_without_a_secret(shop: Shop) -> None:
    """Its account acts for it by ``client_assertion``, as it would by Basic."""
    billing = unique("billing")
    body = {"name": billing, "scopes": [f"{billing}:read"], "accepts": "any"}
    ok(shop.admin.post("/services", json=body), 201)
    exchange = {"service": billing, "scopes": [f"{billing}:read"]}
    patch = {"account": shop.account, "exchanges": [exchange]}
    ok(shop.admin.patch(f"/services/{shop.service}", json=patch))
    person = make_person(shop.admin, shop.read, f"{billing}:read")
    caller = ok(person.login().post("/auth/token", data={"audience": shop.service}))
    data = {
        "grant_type": EXCHANGE,
        "subject_token": caller["access_token"],
        "audience": billing,
        "client_assertion_type": CLIENT_ASSERTION,
    }
    ok(shop.change_rule("main", once=True))
    anybody, token, typed = shop.server.client(), shop.ci.token(), data
    for kind in ("access_token", "jwt"):
        typed = {**data, "subject_token_type": f"urn:ietf:params:oauth:token-type:{kind}"}
        wrong = anybody.post("/auth/token", data={**typed, "client_assertion": "a.b.c"})
        assert wrong.json()["error"] == "invalid_grant"
        other = {**typed, "client_assertion": token, "audience": shop.service}
        assert anybody.post("/auth/token", data=other).json()["error"] == "invalid_target"
    claims = issued_claims(anybody.post("/auth/token", data={**typed, "client_assertion": token}))
    assert (claims["sub"], claims["aud"], claims["scope"]) == (
        person.id,
        billing,
        f"{billing}:read",
    )
    assert claims["act"]["client_id"] == shop.account
    again = anybody.post("/auth/token", data={**typed, "client_assertion": token})
    assert again.json()["error"] == "invalid_grant"
    rows = ok(shop.admin.get("/audit", params={"action": "workload.login", "sort": "-sequence"}))[
        "items"
    ]
    assert [row["actor_name"] for row in rows if row["actor_name"] == shop.account]


def test_it_is_never_in_a_url(shop: Shop) -> None:
    response = shop.server.client().get(
        "/auth/token", params={"grant_type": JWT_BEARER, "assertion": shop.ci.token()}
    )
    assert response.json()["error"] == "invalid_request"
    assert "URL" in response.json()["error_description"]


def test_the_metadata_names_the_grant_type(shop: Shop) -> None:
    metadata = ok(shop.server.client().get("/.well-known/oauth-authorization-server"))
    assert JWT_BEARER in metadata["grant_types_supported"]


def test_there_is_never_a_refresh_token(shop: Shop) -> None:
    ok(shop.admin.patch(f"/services/{shop.service}", json={"refresh_allowed": True}))
    assert shop.present(shop.ci.token(), scope=f"{shop.read} offline_access").json()["error"] == (
        "invalid_scope"
    )


def test_the_token_does_not_outlive_the_foreign_one(shop: Shop) -> None:
    now = int(time.time())
    claims = issued_claims(shop.present(shop.ci.token(exp=now + 60)))
    assert claims["exp"] <= now + 60
    claims = issued_claims(shop.present(shop.ci.token(), lifetime="30"))
    assert claims["exp"] - claims["iat"] <= 31


def test_a_service_that_does_not_accept_workloads_gets_none(shop: Shop) -> None:
    for accepts in ("both", "password", ["api_key"]):
        ok(shop.admin.patch(f"/services/{shop.service}", json={"accepts": accepts}))
        response = shop.present(shop.ci.token(), audience=shop.service)
        assert response.json()["error"] == "invalid_target", accepts
    patched = ok(
        shop.admin.patch(f"/services/{shop.service}", json={"accepts": ["api_key", "workload"]})
    )
    assert patched["accepts"] == ["api_key", "workload"]
    assert issued_claims(shop.present(shop.ci.token()))["aud"] == shop.service


def test_grants_can_be_for_workloads_only(shop: Shop) -> None:
    path = f"/accounts/{shop.account}/grants"
    ok(shop.admin.put(path, json={"scopes": [{"name": shop.read, "with": "workload"}]}))
    assert issued_claims(shop.present(shop.ci.token()))["scope"] == shop.read
    ok(shop.admin.put(path, json={"scopes": [{"name": shop.read, "with": "api_key"}]}))
    assert issued_claims(shop.present(shop.ci.token()))["scope"] == ""


def test_a_service_may_ask_where_it_comes_from(shop: Shop) -> None:
    assert "workload" not in issued_claims(shop.present(shop.ci.token()))
    ok(shop.admin.patch(f"/services/{shop.service}", json={"claims": ["workload"]}))
    assert issued_claims(shop.present(shop.ci.token()))["workload"] == {
        "iss": shop.ci.issuer,
        "sub": "repo:acme/shop:ref:refs/heads/main",
    }


def test_no_account_can_claim_to_be_a_workload(shop: Shop) -> None:
    ok(shop.admin.patch(f"/services/{shop.service}", json={"claims": ["workload"]}))
    person = make_person(shop.admin, shop.read)
    ok(shop.admin.patch(person.path, json={"claims": {"workload": {"iss": "x", "sub": "y"}}}))
    assert "workload" not in issued_claims(person.login().post("/auth/token"))


def test_each_login_is_in_the_audit_log(shop: Shop) -> None:
    ok(shop.present(shop.ci.token()))
    rows = ok(shop.admin.get("/audit", params={"action": "workload.login", "sort": "-sequence"}))[
        "items"
    ]
    row = next(row for row in rows if row["actor_name"] == shop.account)
    assert row["after"] == {
        "issuer": shop.issuer,
        "rule": "main",
        "iss": shop.ci.issuer,
        "sub": "repo:acme/shop:ref:refs/heads/main",
    }
    assert row["address"] is not None


# --- Rules ----------------------------------------------------------------------------------------


@table(
    "claims",
    [
        {"repository_id": "842913402"},
        {"repository_id": 842913401},
        {"repository_id": ["842913401"]},
        {"repository_id": {"id": "842913401"}},
        {"repository_id": None},
        {"repository_id": "842913401 "},
        {"repository_id": "８42913401"},
        {"repository_id": "842913401\u200b"},
        {"ref": "refs/heads/main2"},
        {"ref": "refs/heads/mаin"},
        {"ref": "REFS/HEADS/MAIN"},
        {"ref": None},
        {"ref": True},
        {"ref": "refs/heads/main\x00"},
    ],
)
def test_a_claim_that_only_looks_alike_does_not_fit(shop: Shop, claims: dict[str, Any]) -> None:
    assert "no rule" in shop.refusal(shop.ci.signed({**shop.ci.claims(), **claims}))


def test_a_rule_may_list_values_and_end_them_with_a_star(shop: Shop) -> None:
    shop.change_rule("main", claims={"ref": ["refs/heads/main", "refs/tags/*"]})
    for ref, fits in {
        "refs/heads/main": True,
        "refs/tags/v1": True,
        "refs/tags/": True,
        "refs/heads/x": False,
        "refs/tag": False,
    }.items():
        assert (shop.present(shop.ci.token(ref=ref)).status_code == 200) is fits, ref


def test_a_deeper_claim_is_named_by_a_json_pointer(shop: Shop) -> None:
    shop.change(required_claims=[])
    ok(shop.admin.delete(f"/issuers/{shop.issuer}/rules/main"), 204)
    shop.rule("pods", {"/kubernetes.io/namespace": "prod", "/a~1b/c~0d": 7})
    good: dict[str, Any] = {"kubernetes.io": {"namespace": "prod"}, "a/b": {"c~d": 7}}
    assert issued_claims(shop.present(shop.ci.token(**good)))
    wrong: tuple[dict[str, Any], ...] = (
        {**good, "kubernetes.io": {"namespace": "dev"}},
        {**good, "kubernetes.io": "prod"},
        {**good, "kubernetes.io": [{"namespace": "prod"}]},
        {**good, "a/b": {"c~d": 7.0}},
        {**good, "a/b": {"c~d": "7"}},
        {"/kubernetes.io/namespace": "prod", "/a~1b/c~0d": 7},
    )
    for bad in wrong:
        assert "no rule" in shop.refusal(shop.ci.token(**bad))


def test_true_is_not_one(shop: Shop) -> None:
    shop.rule("protected", {"repository_id": "842913401", "ref_protected": True})
    ok(shop.admin.delete(f"/issuers/{shop.issuer}/rules/main"), 204)
    assert shop.present(shop.ci.token(ref_protected=True)).status_code == 200
    for value in (1, 1.0, "true", [True]):
        shop.refusal(shop.ci.token(ref_protected=value))


def test_two_accounts_are_refused(shop: Shop) -> None:
    first, shop.account = shop.account, shop.machine()
    shop.rule("also", {"repository_id": "842913401"})
    assert "more than one account" in shop.refusal(shop.ci.token())
    ok(shop.change_rule("also", enabled=False))
    assert issued_claims(shop.present(shop.ci.token()))["preferred_username"] == first


def test_of_two_rules_for_an_account_the_one_that_says_more_counts(shop: Shop) -> None:
    shop.rule("any", {"repository_id": "842913401"}, scopes=[shop.read])
    assert set(issued_claims(shop.present(shop.ci.token()))["scope"].split()) == {
        shop.read,
        shop.write,
    }
    assert issued_claims(shop.present(shop.ci.token(ref="refs/heads/x")))["scope"] == shop.read


def test_a_rule_ends(shop: Shop) -> None:
    ok(shop.change_rule("main", expires_at="2020-01-01T00:00:00Z"))
    assert "no rule" in shop.refusal(shop.ci.token())
    ok(shop.change_rule("main", expires_at=None))
    assert shop.present(shop.ci.token()).status_code == 200
    ok(shop.admin.patch(f"/accounts/{shop.account}", json={"enabled": False}))
    assert "disabled or has expired" in shop.refusal(shop.ci.token())


def test_a_token_logs_in_once_where_the_rule_says_so(shop: Shop) -> None:
    token = shop.ci.token()
    assert [shop.present(token).status_code for _ in range(2)] == [200, 200]
    ok(shop.change_rule("main", once=True))
    assert shop.present(token).status_code == 200
    assert "before" in shop.refusal(token)
    assert shop.present(shop.ci.token(), scope="nobody:knows").json()["error"] == "invalid_scope"
    assert "no jti" in shop.refusal(shop.ci.token(jti=None))


def test_what_is_refused_does_not_use_a_token_up(shop: Shop) -> None:
    ok(shop.change_rule("main", once=True))
    token = shop.ci.token()
    assert shop.present(token, scope="nobody:knows").json()["error"] == "invalid_scope"
    assert shop.present(token).status_code == 200


@table(
    ("fields", "faulty_field"),
    [
        ({"claims": {"ref": "refs/heads/main"}}, "claims"),
        ({"claims": {}}, "claims"),
        ({"claims": {"repository_id": "84*"}}, "claims.repository_id"),
        ({"claims": {"repository_id": "1", "ref": "*"}}, "claims.ref"),
        ({"claims": {"repository_id": "1", "ref": "refs/*/main"}}, "claims.ref"),
        ({"claims": {"repository_id": "1", "ref": ["a", "b**"]}}, "claims.ref"),
        ({"claims": {"repository_id": "1", "/a//b": "x"}}, "claims"),
        ({"claims": {"repository_id": "1", "/a~2": "x"}}, "claims"),
        ({"claims": {"repository_id": ""}}, "claims.repository_id"),
        ({"claims": {"repository_id": None}}, "claims"),
        ({"claims": {"repository_id": 1.5}}, "claims"),
        ({"claims": {"repository_id": []}}, "claims"),
        ({"claims": ["repository_id"]}, "claims"),
        ({"account": "nobody.of.that.name"}, "account"),
        ({"account": "admin"}, "account"),
        ({"scopes": ["nobody:knows"]}, "scopes"),
        ({"name": "With Spaces"}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    shop: Shop, fields: dict[str, Any], faulty_field: str
) -> None:
    body = {
        "name": "wrong",
        "claims": {"repository_id": "1"},
        "account": shop.account,
        **fields,
    }
    response = shop.admin.post(f"/issuers/{shop.issuer}/rules", json=body)
    assert problem(response, 422, faulty_field)["code"] == "invalid"


# --- Tokens that must not pass --------------------------------------------------------------------


def test_the_times_of_a_token_count(shop: Shop) -> None:
    now = int(time.time())
    for claims, word in (
        ({"exp": now - 1, "iat": now - 300}, "expired"),
        ({"iat": now + 600, "exp": now + 900}, "not valid yet"),
        ({"nbf": now + 600}, "not valid yet"),
        ({"exp": now + 86_400}, "longer"),
        ({"exp": now + 86_400, "iat": None}, "longer"),
        ({"exp": None}, "lacks"),
        ({"exp": str(now + 60)}, "lacks"),
        ({"exp": True}, "lacks"),
        ({"exp": 10**300}, "lacks"),
        ({"iat": "now"}, "lacks"),
    ):
        assert word in shop.refusal(shop.ci.signed(shop.ci.claims(**claims))), claims


def test_who_signed_it_and_for_whom_counts(shop: Shop) -> None:
    foreign: tuple[dict[str, Any], ...] = (
        {"iss": f"{shop.ci.issuer}/"},
        {"iss": shop.ci.issuer.upper()},
        {"iss": shop.server.url},
        {"aud": "https://other.example.com"},
        {"aud": f"{AUDIENCE}/"},
        {"aud": [AUDIENCE.upper()]},
    )
    for claims in foreign:
        assert "No issuer" in shop.refusal(shop.ci.token(**claims)), claims
    odd: tuple[dict[str, Any], ...] = (
        {"aud": []},
        {"aud": [AUDIENCE, 7]},
        {"aud": {"a": AUDIENCE}},
        {"sub": 7},
    )
    for claims in odd:
        assert "lacks" in shop.refusal(shop.ci.signed({**shop.ci.claims(), **claims})), claims
    assert (
        shop.present(shop.ci.token(aud=["https://other.example.com", AUDIENCE])).status_code == 200
    )


def test_our_own_tokens_are_no_workloads(shop: Shop) -> None:
    shop.refusal(ok(shop.present(shop.ci.token()))["access_token"])
    response = shop.admin.post(
        "/issuers", json={"name": unique("own"), "issuer": shop.server.url, "audience": "x"}
    )
    problem(response, 422, "issuer")


def test_an_access_token_of_the_platform_is_no_identity(shop: Shop) -> None:
    assert "lacks" in shop.refusal(shop.ci.token(headers={"typ": "at+jwt"}))


def test_a_disabled_issuer_logs_nobody_in(shop: Shop) -> None:
    ok(shop.change(enabled=False))
    assert "No issuer" in shop.refusal(shop.ci.token())


# --- Revocation -----------------------------------------------------------------------------------


def test_what_takes_a_login_away_revokes_its_tokens(shop: Shop) -> None:
    owner = make_person(shop.admin, "keyosk:tokens:introspect")

    def is_active(token: str) -> bool:
        return bool(ok(owner.login().post("/auth/introspect", data={"token": token}))["active"])

    ways: dict[str, Callable[[], requests.Response]] = {
        "limit": lambda: shop.change_rule("main", scopes=[shop.read]),
        "claims": lambda: shop.change_rule("main", claims={"ref": "refs/heads/*"}),
        "disable": lambda: shop.change_rule("main", enabled=False),
        "issuer": lambda: shop.change(algorithms=["RS256", "ES256"]),
        "off": lambda: shop.change(enabled=False),
        "delete": lambda: shop.admin.delete(f"/issuers/{shop.issuer}/rules/main"),
    }
    for name, take_away in ways.items():
        token = ok(shop.present(shop.ci.token()))["access_token"]
        assert is_active(token), name
        response = take_away()
        assert response.status_code in (200, 204), response.text
        assert not is_active(token), name
        if name != "delete":
            assert "effective_at_latest" in response.json(), name
            ok(shop.change_rule("main", enabled=True, scopes=None))
            ok(shop.change(enabled=True))
    entries = ok(shop.server.client().get("/auth/revocations"))["entries"]
    assert any("key_id" in entry for entry in entries)


def test_deleting_an_issuer_with_rules_needs_force(shop: Shop) -> None:
    token = ok(shop.present(shop.ci.token()))["access_token"]
    path = f"/issuers/{shop.issuer}"
    assert_refused(shop.admin.delete(path), "in_use", 409)
    assert shop.admin.delete(path, params={"force": "true"}).status_code == 204
    assert "No issuer" in shop.refusal(shop.ci.token())
    person = make_person(shop.admin, "keyosk:tokens:introspect")
    assert ok(person.login().post("/auth/introspect", data={"token": token}))["active"] is False


# --- Who may ------------------------------------------------------------------------------------


def test_nobody_hands_out_an_account_that_holds_more_than_they_do(shop: Shop) -> None:
    by = make_person(shop.admin, "keyosk:services:write", "keyosk:services:read").bearer()
    body = {"name": "mine", "claims": {"repository_id": "1"}, "account": shop.account}
    path = f"/issuers/{shop.issuer}"
    assert_refused(by.post(f"{path}/rules", json=body), "refused_by_rule")
    assert_refused(by.patch(f"{path}/rules/main", json={"enabled": False}), "refused_by_rule")
    assert_refused(by.delete(f"{path}/rules/main"), "refused_by_rule")
    assert_refused(by.patch(path, json={"algorithms": ["ES256"]}), "refused_by_rule")
    assert_refused(by.patch(path, json={"prefix_claims": ["repository_id"]}), "refused_by_rule")
    harmless = shop.machine()
    ok(shop.admin.put(f"/accounts/{harmless}/grants", json={"scopes": []}))
    ok(by.post(f"{path}/rules", json={**body, "account": harmless}), 201)


def test_a_workload_handles_no_credentials(shop: Shop) -> None:
    """Its tokens are not even accepted by Keyosk's own API, unless an admin wants that."""
    path = f"/accounts/{shop.account}/grants"
    scopes = [shop.read, "keyosk:services:write", "keyosk:accounts:write"]
    ok(shop.admin.put(path, json={"scopes": scopes}))
    assert shop.present(shop.ci.token(), audience="keyosk").json()["error"] == "invalid_target"
    token = ok(shop.present(shop.ci.token()))["access_token"]
    assert Client(shop.server.url, token=token).get("/accounts/me").status_code == 401


def test_an_admin_may_let_workloads_administer(own_server: LiveServer, ci: Platform) -> None:
    """Each as far as its grants go, and never where credentials are handled."""
    with own_server as server:
        shop = Shop(server, server.admin(), ci)
        scopes = ["keyosk:services:write", "keyosk:services:read", "keyosk:accounts:write"]
        scopes += ["keyosk:grants:write"]
        grants = [{"name": scope, "with": "workload"} for scope in scopes]
        ok(shop.admin.put(f"/accounts/{shop.account}/grants", json={"scopes": grants}))
        assert shop.present(shop.ci.token(), audience="keyosk").json()["error"] == "invalid_target"

        assert ok(shop.admin.get("/services/keyosk"))["accepts"] == "both"
        for wrong in (["workload"], ["password", "workload"], "password"):
            response = shop.admin.patch("/services/keyosk", json={"accepts": wrong})
            assert_refused(response, "forbidden")
        weak = make_person(shop.admin, "keyosk:services:write", "keyosk:services:read")
        assert_refused(
            weak.bearer().patch("/services/keyosk", json={"accepts": "any"}), "refused_by_rule"
        )
        ok(shop.admin.patch("/services/keyosk", json={"accepts": "any"}))

        token = ok(shop.present(shop.ci.token(), audience="keyosk"))["access_token"]
        by = Client(server.url, token=token)
        ok(by.post("/services", json={"name": unique("made")}), 201)
        for refused in (
            by.post("/issuers", json={"name": unique("x"), "issuer": "https://x.example"}),
            by.post(f"/accounts/{weak.id}/api-keys", json={"name": "k"}),
            by.post("/accounts/me/api-keys", json={"name": "k"}),
            by.put(f"/accounts/{weak.id}/password", json={"password": PASSWORD}),
            by.patch(f"/accounts/{weak.id}/grants", json={"add": {"scopes": [scopes[2]]}}),
        ):
            assert_refused(refused, "refused_by_rule")
        ok(shop.admin.patch("/services/keyosk", json={"accepts": "both"}))
        assert by.get("/accounts/me").status_code == 401
        assert shop.present(shop.ci.token(), audience="keyosk").json()["error"] == "invalid_target"


def test_an_api_key_trusts_no_issuer(shop: Shop) -> None:
    person = make_person(shop.admin, "keyosk:admin")
    secret = ok(
        person.bearer().post(
            "/accounts/me/api-keys", json={"name": "k", "current_password": PASSWORD}
        ),
        201,
    )["secret"]
    key = shop.server.client(person.username, secret)
    assert_refused(
        key.post("/issuers", json={"name": unique("x"), "issuer": "https://x.example"}),
        "refused_by_rule",
    )
    assert_refused(key.patch(f"/issuers/{shop.issuer}", json={"enabled": False}), "refused_by_rule")


# --- Issuers --------------------------------------------------------------------------------------


@table(
    ("fields", "at"),
    [
        ({"issuer": "http://ci.example.com"}, "issuer"),
        ({"issuer": "ftp://ci.example.com"}, "issuer"),
        ({"issuer": "https://user:pass@ci.example.com"}, "issuer"),
        ({"issuer": "not a url"}, "issuer"),
        ({"issuer": ""}, "issuer"),
        ({"jwks_uri": "http://169.254.169.254/keys"}, "jwks_uri"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"jwks_uri": "https://x.example/a#b"}, "jwks_uri"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"max_lifetime": 0}, "max_lifetime"),
        ({"max_lifetime": 10**9}, "max_lifetime"),
        ({"keys": {"keys": []}}, "keys"),
        ({"keys": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, "keys"),
        ({"keys": {"kty": "RSA"}}, "keys"),
        ({"preset": "unknown"}, "preset"),
        ({"required_claims": ["/a//b"]}, "required_claims"),
        ({"audience": "with space"}, "audience"),
        ({"name": "Bad Name"}, "name"),
    ],
)
def test_an_issuer_that_makes_no_sense_is_refused(
    admin: Client, fields: dict[str, Any], at: str
) -> None:
    body = {"name": unique("ci"), "issuer": "https://ci.example.com", **fields}
    problem(admin.post("/issuers", json=body), 422, at)


def test_a_private_key_is_not_stored(admin: Client) -> None:
    with platform(algorithm="ES256") as ci:
        private = {**ci.jwk(), "d": "c2VjcmV0LW51bWJlcg"}
        body = {"name": unique("ci"), "issuer": "urn:ci", "keys": {"keys": [private]}}
        response = admin.post("/issuers", json=body)
        problem(response, 422, "keys")
        assert private["d"] not in response.text


def test_iss_and_audience_are_unique_together(shop: Shop) -> None:
    body = {"name": unique("ci"), "issuer": shop.ci.issuer, "audience": AUDIENCE}
    assert_refused(shop.admin.post("/issuers", json=body), "conflict", 409)
    assert_refused(
        shop.admin.post("/issuers", json={**body, "name": shop.issuer, "audience": "x"}),
        "conflict",
        409,
    )
    ok(shop.admin.post("/issuers", json={**body, "audience": "another"}), 201)
    assert shop.present(shop.ci.token()).status_code == 200
    assert "No issuer" in shop.refusal(shop.ci.token(aud=[AUDIENCE, "another"]))


def test_keys_can_be_given_instead_of_fetched(server: LiveServer, admin: Client) -> None:
    ci = Platform(algorithm="ES256")  # it does not run
    ci.issuer = "https://kubernetes.default.svc.cluster.local"
    audience, uid = unique("aud"), "b0c9e6a4-1f0d-4c1c-9f0e-0d3f3a1b2c4d"
    shop = Shop(
        server,
        admin,
        ci,
        claims={"/kubernetes.io/serviceaccount/uid": uid},
        preset="kubernetes",
        keys={"keys": ci.keys},
        audience=audience,
    )
    account = {"kubernetes.io": {"serviceaccount": {"name": "deployer", "uid": uid}}}
    token = ci.token(aud=[audience], **account)
    assert issued_claims(shop.present(token))["preferred_username"] == shop.account
    again = {"kubernetes.io": {"serviceaccount": {"name": "deployer", "uid": uid[::-1]}}}
    assert "no rule" in shop.refusal(ci.token(aud=[audience], **again))
    assert ci.asked == []


# --- What a rule would say ------------------------------------------------------------------------


def test_a_token_can_be_tried_without_logging_in(shop: Shop) -> None:
    shop.rule("tags", {"repository_id": "842913401", "ref": "refs/tags/*"})
    report = shop.report(shop.ci.token())
    assert (report["verified"], report["account"], report["rule"]) == (True, shop.account, "main")
    assert report["error_description"] is None
    assert report["claims"]["repository"] == "acme/shop"
    tags = next(rule for rule in report["rules"] if rule["name"] == "tags")
    assert tags["fits"] is False
    assert tags["misses"] == [
        {"claim": "ref", "wanted": ["refs/tags/*"], "found": "refs/heads/main"}
    ]
    rule = ok(shop.admin.get(f"/issuers/{shop.issuer}/rules/main"))
    assert rule["last_used_at"] is None
    report = shop.report(shop.ci.token(ref="refs/heads/x"))
    assert (report["verified"], report["rule"]) == (True, None)
    assert "no rule" in report["error_description"]
    forged = shop.ci.token().rpartition(".")[0] + ".AAAA"
    report = shop.report(forged)
    assert (report["verified"], report["claims"], report["rules"]) == (False, {}, [])


# --- Fetching keys --------------------------------------------------------------------------------


def test_keys_are_fetched_once(shop: Shop) -> None:
    for _ in range(5):
        ok(shop.present(shop.ci.token()))
    assert shop.ci.asked == [METADATA, KEYS]
