"""Presets for platforms: the form of their tokens, and the claims that cannot be forged.

A name can be registered again after its owner gave it up; an id cannot. So each preset requires
every rule to name an id, if the platform's tokens have one. Sources are the platforms' public
documentation of their tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyosk.model import IssuerFields

_HOUR: Final = 3_600
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The fields of an issuer that a platform's preset fills in; ``note``: for people."""

    fields: IssuerFields
    note: str


PRESETS: Final[Mapping[str, Preset]] = {
    # docs.github.com: "OpenID Connect reference". sub and repository are names.
    "github": Preset(
        fields={
            "issuer": "https://token.actions.githubusercontent.com",
            "algorithms": ("RS256",),
            "max_lifetime": _HOUR,
            "required_claims": ("repository_id",),
            "prefix_claims": ("ref", "job_workflow_ref", "workflow_ref", "sub"),
        },
        note="repository_id stays the same when a repository is renamed, and never comes back.",
    ),
    # docs.gitlab.com: "OpenID Connect (OIDC) authentication using ID tokens". A job's token lives
    # as long as the job may take.
    "gitlab": Preset(
        fields={
            "issuer": "https://gitlab.com",
            "algorithms": ("RS256",),
            "max_lifetime": _DAY,
            "required_claims": ("project_id",),
            "prefix_claims": ("ref", "ref_path", "ci_config_ref_uri", "sub"),
        },
        note="For GitLab on a server of your own, give its URL as issuer.",
    ),
    # buildkite.com/docs: "OIDC tokens".
    "buildkite": Preset(
        fields={
            "issuer": "https://agent.buildkite.com",
            "algorithms": ("RS256",),
            "max_lifetime": 2 * _HOUR,
            "required_claims": ("organization_id", "pipeline_id"),
            "prefix_claims": ("build_branch", "build_tag", "sub"),
        },
        note="Ask for the ids: buildkite-agent oidc request-token --claim organization_id,"
        "pipeline_id.",
    ),
    # kubernetes.io: "Managing Service Accounts", bound service account tokens. The uid identifies
    # the service account: a later one with the same name has another.
    "kubernetes": Preset(
        fields={
            "issuer": "https://kubernetes.default.svc.cluster.local",
            "algorithms": ("RS256", "ES256"),
            "max_lifetime": _DAY,
            "required_claims": ("/kubernetes.io/serviceaccount/uid",),
            "prefix_claims": (),
        },
        note="Give the issuer of your cluster, and its keys if Keyosk cannot reach it: kubectl get "
        "--raw /openid/v1/jwks",
    ),
    # cloud.google.com: "Verify VM identity"; sub is the service account's unique id.
    "google": Preset(
        fields={
            "issuer": "https://accounts.google.com",
            "algorithms": ("RS256",),
            "max_lifetime": _HOUR,
            "required_claims": ("sub",),
            "prefix_claims": (),
        },
        note="sub is the unique id of the service account; email is a name.",
    ),
    # learn.microsoft.com: "Access token claims reference". oid within tid is never used again. The
    # token of a managed identity is valid for a day and five minutes.
    "azure": Preset(
        fields={
            "algorithms": ("RS256",),
            "max_lifetime": _DAY + _HOUR,
            "required_claims": ("tid", "oid"),
            "prefix_claims": (),
        },
        note="Give the issuer of your tenant: https://login.microsoftonline.com/TENANT/v2.0, or "
        "https://sts.windows.net/TENANT/ for tokens with ver 1.0.",
    ),
    # github.com/spiffe/spiffe: "JWT-SVID". The id is all that there is.
    "spiffe": Preset(
        fields={
            "algorithms": (
                *("RS256", "RS384", "RS512", "ES256", "ES384", "ES512"),
                *("PS256", "PS384", "PS512"),
            ),
            "max_lifetime": _HOUR,
            "required_claims": ("sub",),
            "prefix_claims": ("sub",),
        },
        note="Give the trust domain's jwt_issuer; if no OIDC discovery provider is there, also its "
        "bundle endpoint as jwks_uri.",
    ),
}
