"""Issuers whose tokens log workloads in, and their rules."""

from typing import Any, Final, cast

from flask import Response, g

from keyosk.errors import Conflict
from keyosk.model import IssuerChanges, RuleChanges
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.preconditions import wanted_versions
from keyosk.web.responses import is_forced, json_response, nothing, object_response
from keyosk.web.workload_schemas import (
    AssertionReportSchema,
    AssertionTest,
    IssuerNew,
    IssuerPatch,
    IssuerSchema,
    RuleNew,
    RulePatch,
    RuleSchema,
)
from keyosk.workloads.logins import Examination

ISSUER_LISTS = paging.ListOptions(
    ("created_at", "name"),
    {"enabled": paging.flag("Only enabled issuers, or only disabled ones.")},
)
RULE_LISTS = paging.ListOptions(
    ("created_at", "name"),
    {
        "enabled": paging.flag("Only enabled rules, or only disabled ones."),
        "account": paging.text("Only rules for the account with this username.", "deployer"),
    },
)

# One instance, because each new one copies all fields (150 us).
_issuer: Final = IssuerSchema().body_of
_rule: Final = RuleSchema().body_of
_REPORT: Final = AssertionReportSchema()
_LISTS: Final = ("algorithms", "required_claims", "prefix_claims", "scopes")


class IssuersResource(Endpoint):
    """All issuers that are trusted."""

    @operation(response=IssuerSchema, lists=ISSUER_LISTS)
    def get(self) -> Response:
        """List issuers."""
        issuers = self.installation.issuers
        return self.page(issuers.page, _issuer, issuers.count)

    @operation(body=IssuerNew, response=IssuerSchema, status=201, has_etag=True, raises=(Conflict,))
    def post(self) -> Response:
        """Trust an issuer."""
        fields = {name: value for name, value in loaded(self.load()).items() if value is not None}
        issuer = self.installation.issuers.create(g.caller, **fields)
        return object_response(
            _issuer(issuer), issuer.version, 201, location=f"/issuers/{issuer.name}"
        )


class IssuerResource(Endpoint):
    """One issuer."""

    @operation(response=IssuerSchema, has_etag=True)
    def get(self, issuer: str) -> Response:
        """Return the issuer."""
        stored = self.installation.issuers.get(issuer)
        return object_response(_issuer(stored), stored.version)

    @operation(body=IssuerPatch, response=IssuerSchema, has_etag=True, raises=(Conflict,))
    def patch(self, issuer: str) -> Response:
        """Change the fields in the merge patch.

        A change of what proves tokens revokes those that were issued to workloads of the issuer.
        """
        patch = cast(IssuerChanges, loaded(self.load()))
        changed = self.installation.issuers.change(
            g.caller, issuer, patch, version=wanted_versions()
        )
        return object_response(_issuer(changed), changed.version, effective_at=changed.effective_at)

    @operation(has_etag=True, needs_force=True)
    def delete(self, issuer: str) -> Response:
        """Trust the issuer no longer; requires ``force`` if it has rules."""
        return nothing(
            self.installation.issuers.remove(
                g.caller, issuer, force=is_forced(), version=wanted_versions()
            )
        )


class IssuerTestResource(Endpoint):
    """A token that is tried without logging in."""

    repeatable = False

    @operation(body=AssertionTest, response=AssertionReportSchema)
    def post(self, issuer: str) -> Response:
        """Tell what would happen if a workload showed this token: nothing is issued or kept."""
        assertion = self.load()["assertion"]
        stored = self.installation.issuers.get(issuer)
        examined = self.installation.workload_logins.examine(stored, assertion)
        return json_response(_report(examined))


class RulesResource(Endpoint):
    """The rules of an issuer."""

    @operation(response=RuleSchema, lists=RULE_LISTS)
    def get(self, issuer: str) -> Response:
        """List rules."""
        rules = self.installation.workload_rules
        return self.page(
            lambda query: rules.page(issuer, query), _rule, lambda query: rules.count(issuer, query)
        )

    @operation(body=RuleNew, response=RuleSchema, status=201, has_etag=True, raises=(Conflict,))
    def post(self, issuer: str) -> Response:
        """Create a rule: tokens of the issuer with these claims log in as this account."""
        fields = {
            name: value
            for name, value in loaded(self.load()).items()
            if value is not None or name == "scopes"
        }
        rule = self.installation.workload_rules.create(g.caller, issuer, **fields)
        location = f"/issuers/{issuer}/rules/{rule.name}"
        return object_response(_rule(rule), rule.version, 201, location=location)


class RuleResource(Endpoint):
    """One rule of an issuer."""

    @operation(response=RuleSchema, has_etag=True)
    def get(self, issuer: str, rule: str) -> Response:
        """Return the rule."""
        stored = self.installation.workload_rules.get(issuer, rule)
        return object_response(_rule(stored), stored.version)

    @operation(body=RulePatch, response=RuleSchema, has_etag=True, raises=(Conflict,))
    def patch(self, issuer: str, rule: str) -> Response:
        """Change the fields in the merge patch."""
        patch = cast(RuleChanges, loaded(self.load()))
        changed = self.installation.workload_rules.change(
            g.caller, issuer, rule, patch, version=wanted_versions()
        )
        return object_response(_rule(changed), changed.version, effective_at=changed.effective_at)

    @operation(has_etag=True)
    def delete(self, issuer: str, rule: str) -> Response:
        """Delete the rule; its tokens are revoked."""
        rules = self.installation.workload_rules
        return nothing(rules.remove(g.caller, issuer, rule, version=wanted_versions()))


def loaded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the loaded fields of an issuer or a rule, lists as the domain has them."""
    for name in _LISTS:
        if fields.get(name) is not None:
            fields[name] = tuple(dict.fromkeys(fields[name]))
    return fields


def _report(examined: Examination) -> dict[str, Any]:
    return _REPORT.body_of(
        {
            "verified": examined.assertion is not None,
            "error_description": examined.fault,
            "account": examined.rule.account if examined.rule else None,
            "rule": examined.rule.name if examined.rule else None,
            "claims": examined.assertion.claims if examined.assertion else {},
            "rules": [
                {
                    "name": match.rule.name,
                    "account": match.rule.account,
                    "enabled": match.rule.enabled,
                    "fits": not match.misses,
                    "misses": [
                        {
                            "claim": name,
                            "wanted": list(match.rule.claims[name]),
                            "found": examined.found(name),
                        }
                        for name in match.misses
                    ],
                }
                for match in examined.matches
            ],
        }
    )
