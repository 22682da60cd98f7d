"""/auth/forward: what a reverse proxy is told about a request, and the token that it gets."""

from typing import Any, Final
from urllib.parse import unquote

import pytest

import live
from live import Client, LiveServer
from people import claims_of, forwarded_claims

PASSWORD: Final = "a password of some length"


class Setting:
    """A service with two scopes, and an account that holds the first."""

    def __init__(self, server: LiveServer, admin: Client) -> None:
        self.server, self.admin = server, admin
        self.service = live.unique("todo")
        self.read, self.write = f"{self.service}:read", f"{self.service}:write"
        self.username = live.unique("j\u00f6rg")
        self._post("/services", name=self.service, scopes=[self.read, self.write])
        grants = {"scopes": [self.read]}
        self._post("/accounts", username=self.username, password=PASSWORD, grants=grants)
        self.secret: str = self._post(f"/accounts/{self.username}/api-keys", name="a key")["secret"]

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.admin.post(path, json=body)
        assert response.status_code == 201, response.text
        body_sent_back: dict[str, Any] = response.json()
        return body_sent_back

    def basic(self) -> Client:
        return Client(self.server.url, auth=(self.username.encode(), self.secret.encode()))  # type: ignore[arg-type]

    def bearer(self, **parameters: Any) -> Client:
        data = {"audience": self.service, **parameters}
        response = self.basic().post("/auth/token", data=data).json()
        return Client(self.server.url, token=response["access_token"])

    def path(self, scope: str = "") -> str:
        return f"/auth/forward?service={self.service}" + (f"&scope={scope}" if scope else "")


@pytest.fixture
def setting(server: LiveServer, admin: Client) -> Setting:
    return Setting(server, admin)


def test_a_login_becomes_a_short_token_for_this_service(setting: Setting) -> None:
    response = setting.basic().get(setting.path(setting.read))

    claims = forwarded_claims(response)
    assert (claims["aud"], claims["scope"]) == (setting.service, setting.read)
    assert claims["exp"] - claims["iat"] == 60
    assert response.content == b""
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Keyosk-Scope"] == setting.read
    assert unquote(response.headers["X-Keyosk-Account"]) == setting.username


def test_no_response_says_anything_of_the_host_in_whose_name_a_proxy_sends_it(
    setting: Setting,
) -> None:
    nobody, path = setting.server.client(), setting.path()
    responses = [
        setting.basic().get(path),
        nobody.get(path),
        nobody.get(f"/auth/forward/{setting.service}/some/page"),
        setting.basic().get("/auth/forward?typo=1"),
    ]
    assert [response.status_code for response in responses] == [200, 401, 401, 403]
    for response in responses:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Strict-Transport-Security" not in response.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_every_method_is_asked_for_a_login(method: str, setting: Setting) -> None:
    for path in (setting.path(), f"/auth/forward/{setting.service}/some/page"):
        refused = setting.server.client().request(method, path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert "Bearer " in refused.headers["WWW-Authenticate"]
        assert forwarded_claims(setting.basic().request(method, path))["aud"] == setting.service


PREFLIGHT: Final = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
TOLD: Final = "X-Forwarded-Method"


def allow_preflights(setting: Setting) -> None:
    path = f"/services/{setting.service}"
    assert setting.admin.patch(path, json={"cors_preflight": True}).status_code == 200


@pytest.mark.parametrize(
    ("method", "told", "query"),
    [
        ("OPTIONS", None, ""),
        ("OPTIONS", "OPTIONS", ""),
        ("OPTIONS", "OPTIONS", f"&method={TOLD}"),
        ("GET", "OPTIONS", f"&method={TOLD}"),
    ],
)
def test_a_browser_s_preflight_could_not_reach_any_service(
    method: str, told: str | None, query: str, setting: Setting
) -> None:
    nobody = setting.server.client()
    headers = {**PREFLIGHT, **({TOLD: told} if told else {})}
    paths = [f"{setting.path(setting.write)}{query}"]
    if method == "OPTIONS":
        paths += [f"/auth/forward/{setting.service}/some/page{query.replace('&', '?')}"]
    for path in paths:
        assert nobody.request(method, path, headers=headers).status_code == 401
    allow_preflights(setting)
    for path in paths:
        passed = nobody.request(method, path, headers=headers)
        assert (passed.status_code, passed.content) == (200, b"")
        assert passed.headers["Cache-Control"] == "no-store"
        assert not [name for name in passed.headers if name.lower().startswith("x-keyosk")]
        assert "Authorization" not in passed.headers


@pytest.mark.attack
def test_what_is_no_preflight_needs_a_login_where_preflights_pass(setting: Setting) -> None:
    allow_preflights(setting)
    nobody = setting.server.client()
    path = setting.path()

    def status(method: str, **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value}
        return nobody.request(method, path, headers=sent).status_code

    whole = {name.replace("-", "_"): value for name, value in PREFLIGHT.items()}
    assert status("OPTIONS", **whole) == 200
    for missing in whole:
        assert status("OPTIONS", **{**whole, missing: ""}) == 401
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND"):
        assert status(method, **whole) == 401
        assert status(method, **whole, X_Original_Method="OPTIONS") == 401
        assert status(method, **whole, X_HTTP_Method_Override="OPTIONS") == 401
    for method, told in (
        *(("OPTIONS", word) for word in ("GET", "POST", "options", "OPTIONS,OPTIONS", "*")),
        *((word, "OPTIONS") for word in ("HEAD", "POST", "PUT", "DELETE", "PROPFIND")),
        *(("GET", word) for word in ("GET", "options", "OPTIONS, GET", "GET, OPTIONS", "OPTIONSX")),
    ):
        assert status(method, **whole, X_Forwarded_Method=told) == 401, (method, told)
    for wrong in ("Basic eDp5", "Bearer x", "Basic", "other"):
        assert status("OPTIONS", **whole, Authorization=wrong) == 401, wrong
    joined = {**PREFLIGHT, "X_Forwarded_Method": "OPTIONS"}  # another name than X-Forwarded-Method
    assert nobody.get(path, headers=joined).status_code == 401


@pytest.mark.attack
def test_a_client_s_own_forwarded_method_made_a_preflight_of_its_get(setting: Setting) -> None:
    """Behind a proxy that asks by GET and does not write the header itself."""
    allow_preflights(setting)
    nobody = setting.server.client()
    made_up = {**PREFLIGHT, TOLD: "OPTIONS"}
    for path in (
        setting.path(),
        f"/auth/forward/{setting.service}/some/page",
        # Here the query is the client's.
        f"/auth/forward/{setting.service}/some/page?method={TOLD}",
    ):
        assert nobody.get(path, headers=made_up).status_code == 401, path
    for wrong in ("", "OPTIONS", "x-forwarded-method", f"{TOLD}&method={TOLD}", f"{TOLD}&method="):
        refused = nobody.get(f"{setting.path()}&method={wrong}", headers=made_up)
        assert refused.status_code == 403, wrong


@pytest.mark.attack
def test_a_forwarded_method_that_is_missing_is_no_preflight(setting: Setting) -> None:
    allow_preflights(setting)
    nobody = setting.server.client()
    path = f"{setting.path()}&method={TOLD}"
    for method in ("OPTIONS", "GET", "POST"):
        assert nobody.request(method, path, headers=PREFLIGHT).status_code == 401
    for told in ("", "GET", "POST", "options", "OPTIONS, GET", "GET, OPTIONS", "OPTIONS,OPTIONS"):
        assert nobody.get(path, headers={**PREFLIGHT, TOLD: told}).status_code == 401, told


@pytest.mark.attack
def test_a_preflight_passes_to_no_other_and_no_disabled_service(setting: Setting) -> None:
    allow_preflights(setting)
    nobody = setting.server.client()
    for path in ("/auth/forward?service=keyosk", "/auth/forward/nothing", "/auth/forward"):
        assert nobody.request("OPTIONS", path, headers=PREFLIGHT).status_code in (401, 403), path
    for bad in (f"{setting.path()}&x=y", f"{setting.path()}&service=keyosk"):
        assert nobody.request("OPTIONS", bad, headers=PREFLIGHT).status_code == 403
    own = {"X-Keyosk-Service": "keyosk"}
    refused = nobody.request("OPTIONS", setting.path(), headers={**PREFLIGHT, **own})
    assert refused.status_code == 403
    off = setting.admin.patch(f"/services/{setting.service}", json={"enabled": False})
    assert off.status_code == 200
    assert nobody.request("OPTIONS", setting.path(), headers=PREFLIGHT).status_code == 401


@pytest.mark.parametrize(
    "rest", ["", "/", "//", "/a/b", "/a//b/", "/%2e%2e/x", "?scope=other", "/x?service=other&y=1"]
)
def test_what_the_client_asked_for_is_nothing_to_the_path_form(rest: str, setting: Setting) -> None:
    response = setting.basic().get(f"/auth/forward/{setting.service}{rest}")

    assert forwarded_claims(response)["aud"] == setting.service


def test_a_missing_scope_is_refused_wherever_it_is_required(setting: Setting) -> None:
    both = {"X-Keyosk-Require-Scope": setting.write}

    assert setting.basic().get(setting.path(setting.write)).status_code == 403
    assert setting.basic().get(setting.path(setting.read), headers=both).status_code == 403
    refused = setting.bearer().get(setting.path(setting.write))
    assert refused.status_code == 403
    assert "insufficient_scope" in refused.headers["WWW-Authenticate"]


def test_malformed_requests_are_refused_in_words_that_proxies_know(setting: Setting) -> None:
    path = setting.path()
    other = {"X-Keyosk-Service": "other"}

    for bad in (f"{path}&scop=x", f"{path}&scope=", f"{path}&service=other", "/auth/forward",
                f"{path}&scope=%22", "/auth/forward?service=", "/auth/forward//x"):  # fmt: skip
        assert setting.basic().get(bad).status_code == 403, bad
    assert setting.basic().get(path, headers=other).status_code == 403
    assert setting.basic().get("/auth/forward?service=nothing").status_code == 403


def test_the_service_may_stand_in_a_header(setting: Setting) -> None:
    header = {"X-Keyosk-Service": setting.service}

    assert forwarded_claims(setting.basic().get("/auth/forward", headers=header))


def test_a_bearer_token_gives_no_more_and_lasts_no_longer_than_itself(setting: Setting) -> None:
    changed = setting.admin.patch(
        f"/accounts/{setting.username}/grants", json={"add": {"scopes": [setting.write]}}
    )
    assert changed.status_code == 200, changed.text
    bearer = setting.bearer(scope=setting.read, lifetime=20)
    original = str(bearer.session.headers["Authorization"]).removeprefix("Bearer ")
    was = claims_of(original)

    claims = forwarded_claims(bearer.get(setting.path()))

    assert claims["scope"] == setting.read
    assert claims["exp"] <= was["exp"]
    assert (claims["auth_time"], claims["amr"]) == (was["auth_time"], was["amr"])
    assert claims["key_id"] == was["key_id"]


def test_a_token_for_another_service_is_no_token_here(setting: Setting) -> None:
    assert setting.admin.get(setting.path()).status_code == 401
    assert setting.bearer().get("/auth/forward?service=nothing").status_code == 401


def test_a_service_that_is_disabled_lets_nobody_in(setting: Setting) -> None:
    bearer = setting.bearer()
    changed = setting.admin.patch(f"/services/{setting.service}", json={"enabled": False})
    assert changed.status_code == 200, changed.text

    assert setting.basic().get(setting.path()).status_code == 403
    assert bearer.get(setting.path()).status_code in (401, 403)


def test_a_token_that_was_revoked_lets_nobody_in(setting: Setting) -> None:
    bearer = setting.bearer()
    assert forwarded_claims(bearer.get(setting.path()))
    text = str(bearer.session.headers["Authorization"]).removeprefix("Bearer ")
    assert setting.basic().post("/auth/revoke", data={"token": text}).status_code == 200

    assert bearer.get(setting.path()).status_code == 401
