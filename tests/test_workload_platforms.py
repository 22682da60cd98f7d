"""Each platform's tokens as it documents them, and libraries of others that sign or verify them."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwk
from joserfc import jwt as joserfc_jwt
from spiffe import JwtBundle, JwtSvid, TrustDomain

from documented_tokens import TOKENS, Documented
from keyosk.workloads import claims as matching
from keyosk.workloads.presets import PRESETS
from live import Client, LiveServer, unique
from platforms import AUDIENCE, KEYS, Platform, platform, send
from shops import Shop, issued_claims
from tables import table
from test_workload_forgeries import changed

pytestmark = pytest.mark.every_database

_PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "workloads.md"


def trusting(
    preset: str, server: LiveServer, admin: Client, ci: Platform, **fields: Any
) -> tuple[Shop, Documented]:
    documented = TOKENS[preset]
    fields = {"preset": preset, "algorithms": [ci.algorithm], **fields}
    return Shop(server, admin, ci, claims=dict(documented.pinned), **fields), documented


def signed(ci: Platform, documented: Documented, claims: dict[str, Any]) -> str:
    now = int(time.time())
    times = {"iat": now, "exp": now + documented.lifetime}
    if documented.not_before is not None:
        times["nbf"] = now + documented.not_before
    aud = [AUDIENCE] if documented.many else AUDIENCE
    header = {"alg": ci.algorithm, "kid": ci.kid, **documented.header}
    payload = {"iss": ci.issuer, "aud": aud, **times, **claims}
    return ci.raw(json.dumps(payload).encode(), json.dumps(header).encode())


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_token_as_documented_logs_in(
    server: LiveServer, admin: Client, ci: Platform, preset: str
) -> None:
    shop, documented = trusting(preset, server, admin, ci)
    response = shop.present(signed(ci, documented, dict(documented.claims)))
    assert issued_claims(response)["preferred_username"] == shop.account
    report = shop.report(signed(ci, documented, dict(documented.claims)))
    assert (report["rule"], report["error_description"]) == ("main", None)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_namesake_does_not(server: LiveServer, admin: Client, ci: Platform, preset: str) -> None:
    """What was deleted and made again has its names, and other ids."""
    shop, documented = trusting(preset, server, admin, ci)
    for name in PRESETS[preset].fields["required_claims"]:
        steps = matching.path(name)
        claims = changed(dict(documented.claims), steps, documented.pinned[name][::-1])
        assert "no rule" in shop.refusal(signed(ci, documented, claims))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_rule_by_names_only_cannot_be_made(
    server: LiveServer, admin: Client, ci: Platform, preset: str
) -> None:
    shop, documented = trusting(preset, server, admin, ci)
    for name, value in documented.names.items():
        if name not in PRESETS[preset].fields["required_claims"]:
            body = {"name": unique("rule"), "claims": {name: value}, "account": shop.account}
            response = admin.post(f"/issuers/{shop.issuer}/rules", json=body)
            assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "claims")


def test_what_is_renamed_logs_in_as_before(server: LiveServer, admin: Client, ci: Platform) -> None:
    for preset, names in {
        "github": {"repository": "acme/market", "sub": "repo:acme/market:environment:production"},
        "gitlab": {"project_path": "acme/market", "namespace_path": "acme-inc"},
    }.items():
        with platform() as other:
            shop, documented = trusting(preset, server, admin, other)
            token = signed(other, documented, {**documented.claims, **names})
            assert shop.present(token).status_code == 200


def test_the_page_says_what_each_preset_pins() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", _PAGE.read_text(), re.MULTILINE)
    shown = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    assert shown.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        issuer, required, why, star, longest = shown[name]
        fields = preset.fields
        if "issuer" in fields and name != "kubernetes":
            assert fields["issuer"] in issuer
        assert re.findall(r"`([^`]+)`", required) == list(fields["required_claims"]), name
        assert len(why) > 20, name
        assert re.findall(r"`([^`]+)`", star) == list(fields["prefix_claims"]), name
        hours = fields["max_lifetime"] // 3_600
        assert longest == f"{hours} hour{'s' if hours > 1 else ''}", name


# --- Libraries of others --------------------------------------------------------------------------


@pytest.fixture(params=["ES256", "RS256"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A trust domain: its keys as a SPIFFE bundle endpoint publishes them."""
    with platform(algorithm=request.param) as made:
        key = {**made.jwk(), "use": "jwt-svid"}
        del key["alg"]
        ca = {"kty": "EC", "use": "x509-svid", "crv": "P-256", "x": "AA", "y": "AA", "x5c": ["AA"]}
        bundle = {"spiffe_sequence": 1, "spiffe_refresh_hint": 300, "keys": [ca, key]}
        made.keys = [ca, key]
        made.answers[KEYS] = lambda handler: send(handler, json.dumps(bundle).encode())
        yield made


def test_svids_that_spiffe_takes_log_in(server: LiveServer, admin: Client, mesh: Platform) -> None:
    shop, documented = trusting("spiffe", server, admin, mesh, jwks_uri=mesh.issuer + KEYS)
    token = signed(mesh, documented, dict(documented.claims))
    bundle = JwtBundle.parse(TrustDomain("example.org"), json.dumps({"keys": mesh.keys}).encode())
    svid = JwtSvid.parse_and_validate(token, bundle, {AUDIENCE})
    assert str(svid.spiffe_id) == documented.pinned["sub"]
    assert issued_claims(shop.present(token))["preferred_username"] == shop.account
    other = signed(mesh, documented, {"sub": "spiffe://example.org/shopping"})
    assert "no rule" in shop.refusal(other)


def test_the_bundle_of_a_domain_is_given(server: LiveServer, admin: Client, mesh: Platform) -> None:
    shop, documented = trusting("spiffe", server, admin, mesh, keys={"keys": mesh.keys})
    assert shop.present(signed(mesh, documented, dict(documented.claims))).status_code == 200
    assert mesh.asked == []


@table("kind, parameter, algorithm", [("RSA", 2048, "RS256"), ("EC", "P-384", "ES384")])
def test_an_issuer_made_of_another_library(
    server: LiveServer, admin: Client, kind: str, parameter: Any, algorithm: str
) -> None:
    """Keys, key set and signature of joserfc: nothing of it is by the library that verifies."""
    with platform() as ci:
        ci.algorithm = algorithm
        keys = jwk.KeySet.generate_key_set(
            kind, parameter, {"use": "sig", "alg": algorithm}, count=3
        )
        ci.keys = keys.as_dict(private=False)["keys"]
        shop = Shop(server, admin, ci)
        for key in keys.keys:
            header = {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
            token = joserfc_jwt.encode(header, ci.claims(), key, algorithms=[algorithm])
            assert issued_claims(shop.present(token))["preferred_username"] == shop.account
        (stranger,) = jwk.KeySet.generate_key_set(kind, parameter, count=1).keys
        header = {"alg": algorithm, "kid": keys.keys[0].kid}
        forged = joserfc_jwt.encode(header, ci.claims(), stranger, algorithms=[algorithm])
        assert shop.refusal(forged) == "The token is not valid."
