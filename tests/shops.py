"""A service whose callers are workloads: a trusted issuer, a rule, a machine account."""

from typing import Any

import requests

from live import Client, LiveServer, unique
from people import claims_of, ok
from platforms import AUDIENCE, Platform

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MAIN: dict[str, Any] = {"repository_id": "842913401", "ref": "refs/heads/main"}


class Shop:
    """A service that accepts workloads, a machine account with its scopes, and a rule.

    ``claims`` are those of the rule, which is called main; ``fields`` are those of the issuer.
    """

    def __init__(
        self,
        server: LiveServer,
        admin: Client,
        ci: Platform,
        *,
        claims: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        self.server, self.admin, self.ci = server, admin, ci
        self.service = unique("shop")
        self.read, self.write = f"{self.service}:read", f"{self.service}:write"
        body = {"name": self.service, "scopes": [self.read, self.write], "accepts": "any"}
        ok(admin.post("/services", json=body), 201)
        self.account = self.machine()
        self.issuer = unique("ci")
        self.trust(**fields)
        self.rule("main", claims or MAIN)

    def machine(self) -> str:
        username = unique("deployer")
        grants = {"scopes": [self.read, self.write]}
        body = {"username": username, "kind": "machine", "grants": grants}
        ok(self.admin.post("/accounts", json=body), 201)
        return username

    def trust(self, **fields: Any) -> None:
        body = {
            "name": self.issuer,
            "preset": "github",
            "issuer": self.ci.issuer,
            "audience": AUDIENCE,
            "algorithms": [self.ci.algorithm],
            "allow_private": True,
            **fields,
        }
        ok(self.admin.post("/issuers", json=body), 201)

    def rule(self, name: str, claims: dict[str, Any], **fields: Any) -> dict[str, Any]:
        body = {"name": name, "claims": claims, "account": self.account, **fields}
        rule: dict[str, Any] = ok(self.admin.post(f"/issuers/{self.issuer}/rules", json=body), 201)
        return rule

    def change(self, **patch: Any) -> requests.Response:
        return self.admin.patch(f"/issuers/{self.issuer}", json=patch)

    def change_rule(self, name: str, **patch: Any) -> requests.Response:
        return self.admin.patch(f"/issuers/{self.issuer}/rules/{name}", json=patch)

    def present(self, token: str, **parameters: Any) -> requests.Response:
        data = {"grant_type": JWT_BEARER, "assertion": token, **parameters}
        return self.server.client().post("/auth/token", data=data)

    def refusal(self, token: str, error: str = "invalid_grant") -> str:
        """The description of the error that a token gets."""
        response = self.present(token)
        assert response.status_code == 400, response.text
        assert response.json()["error"] == error, response.text
        return str(response.json()["error_description"])

    def report(self, token: str) -> dict[str, Any]:
        body = {"assertion": token}
        report: dict[str, Any] = ok(self.admin.post(f"/issuers/{self.issuer}/test", json=body))
        return report


def issued_claims(response: requests.Response) -> dict[str, Any]:
    """The claims of the token that a response issues."""
    return claims_of(ok(response)["access_token"])
