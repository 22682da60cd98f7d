"""Tokens as the public documentation of each platform shows them.

Names and shapes are those of the documentation; values are made up. Where a platform writes numbers
or true as text, that is so here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Documented:
    """A token of a platform.

    Attributes:
        header: Besides ``alg`` and ``kid``.
        claims: Besides ``iss`` and ``aud``, and the times.
        lifetime: Seconds from ``iat`` to ``exp``.
        pinned: By claim: what a rule says that is for this workload only.
        names: By claim: a name that somebody else may get one day.
        not_before: What ``nbf`` is more than ``iat``; ``None`` if there is no ``nbf``.
        many: Whether ``aud`` is a list.
    """

    claims: Mapping[str, Any]
    lifetime: int
    pinned: Mapping[str, str]
    names: Mapping[str, str]
    header: Mapping[str, str]
    not_before: int | None = 0
    many: bool = False


_JWT: Final = {"typ": "JWT"}

TOKENS: Final[Mapping[str, Documented]] = {
    # docs.github.com/en/actions/reference/security/oidc
    "github": Documented(
        header={**_JWT, "x5t": "HyqRkZxy_Iu6mP4sxgyC1KOUmQY"},
        claims={
            "jti": "a2b4c6d8-0000-4000-8000-1234567890ab",
            "sub": "repo:acme/shop:environment:production",
            "environment": "production",
            "ref": "refs/heads/main",
            "sha": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "repository": "acme/shop",
            "repository_id": "842913401",
            "repository_owner": "acme",
            "repository_owner_id": "9919",
            "repository_visibility": "private",
            "run_id": "9837465021",
            "run_number": "10",
            "run_attempt": "2",
            "actor": "octavia",
            "actor_id": "1024025",
            "workflow": "deploy",
            "workflow_ref": "acme/shop/.github/workflows/deploy.yml@refs/heads/main",
            "job_workflow_ref": "acme/shop/.github/workflows/deploy.yml@refs/heads/main",
            "head_ref": "",
            "base_ref": "",
            "event_name": "workflow_dispatch",
            "ref_type": "branch",
            "ref_protected": "true",
            "runner_environment": "github-hosted",
        },
        lifetime=300,
        not_before=-600,
        pinned={"repository_id": "842913401", "ref": "refs/heads/main"},
        names={"repository": "acme/shop", "sub": "repo:acme/shop:environment:production"},
    ),
    # docs.gitlab.com/ci/secrets/id_token_authentication
    "gitlab": Documented(
        header=_JWT,
        claims={
            "jti": "63ab75f4-2606-4f0e-a500-86f90ab13a85",
            "sub": "project_path:acme/shop:ref_type:branch:ref:main",
            "namespace_id": "72",
            "namespace_path": "acme",
            "project_id": "20",
            "project_path": "acme/shop",
            "user_id": "1",
            "user_login": "octavia",
            "user_email": "octavia@example.com",
            "user_access_level": "maintainer",
            "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
            "pipeline_id": "574",
            "pipeline_source": "push",
            "job_id": "302",
            "ref": "main",
            "ref_type": "branch",
            "ref_path": "refs/heads/main",
            "ref_protected": "true",
            "runner_id": 1,
            "runner_environment": "gitlab-hosted",
            "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
            "project_visibility": "private",
            "ci_config_ref_uri": "gitlab.com/acme/shop//.gitlab-ci.yml@refs/heads/main",
            "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        },
        lifetime=3_600,
        not_before=-5,
        pinned={"project_id": "20", "ref_path": "refs/heads/main", "ref_protected": "true"},
        names={"project_path": "acme/shop", "namespace_path": "acme"},
    ),
    # buildkite.com/docs/agent/cli/reference/oidc; the ids come by --claim
    "buildkite": Documented(
        header=_JWT,
        claims={
            "sub": "organization:acme:pipeline:shop:ref:refs/heads/main:"
            "commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:deploy",
            "organization_slug": "acme",
            "organization_id": "f02d6a6f-7a0e-481d-9d6d-89b427aec48d",
            "pipeline_slug": "shop",
            "pipeline_id": "1e0a7f0c-cfd3-4e0e-8bd5-3f1d8a1f3c5e",
            "build_number": 1,
            "build_branch": "main",
            "build_tag": None,
            "build_commit": "9f3182061f1e2cca4702c368cbc039b7dc9d4485",
            "step_key": "deploy",
            "job_id": "0184990a-477b-4fa8-9968-496074483cee",
            "agent_id": "0184990a-4782-42b5-afc1-16715b10b8ff",
            "build_source": "ui",
            "runner_environment": "buildkite-hosted",
        },
        lifetime=300,
        pinned={
            "organization_id": "f02d6a6f-7a0e-481d-9d6d-89b427aec48d",
            "pipeline_id": "1e0a7f0c-cfd3-4e0e-8bd5-3f1d8a1f3c5e",
            "build_branch": "main",
        },
        names={"organization_slug": "acme", "pipeline_slug": "shop"},
    ),
    # kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin, bound tokens; the
    # header has no typ
    "kubernetes": Documented(
        header={},
        claims={
            "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
            "sub": "system:serviceaccount:prod:deployer",
            "kubernetes.io": {
                "namespace": "prod",
                "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
                "pod": {"name": "shop-7", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
                "serviceaccount": {
                    "name": "deployer",
                    "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798",
                },
            },
        },
        lifetime=3_600,
        many=True,
        pinned={
            "/kubernetes.io/serviceaccount/uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798",
            "/kubernetes.io/namespace": "prod",
        },
        names={
            "sub": "system:serviceaccount:prod:deployer",
            "/kubernetes.io/serviceaccount/name": "deployer",
        },
    ),
    # cloud.google.com/compute/docs/instances/verifying-instance-identity, format=full
    "google": Documented(
        header=_JWT,
        claims={
            "sub": "107517467455664443765",
            "azp": "107517467455664443765",
            "email": "deployer@acme-prod.iam.gserviceaccount.com",
            "email_verified": True,
            "google": {
                "compute_engine": {
                    "instance_creation_timestamp": 1496952205,
                    "instance_id": "152986662232938449",
                    "instance_name": "shop-1",
                    "project_id": "acme-prod",
                    "project_number": 739419398126,
                    "zone": "us-west1-a",
                }
            },
        },
        lifetime=3_600,
        not_before=None,
        pinned={"sub": "107517467455664443765"},
        names={
            "email": "deployer@acme-prod.iam.gserviceaccount.com",
            "/google/compute_engine/project_id": "acme-prod",
        },
    ),
    # learn.microsoft.com/entra/identity-platform/access-token-claims-reference; the token of a
    # managed identity is valid for a day and five minutes
    "azure": Documented(
        header={**_JWT, "x5t": "2ZQpJ3UpbjAYXYGaXEJl8lV0TOI"},
        claims={
            "aio": "E2NgYPj/OHvlhP9z",
            "appid": "6f3d2b1a-3f7a-4c8e-9b0d-5c1e2a7f8d90",
            "appidacr": "2",
            "idp": "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
            "idtyp": "app",
            "oid": "3cf65d5e-1d46-4f0c-9a37-6d1d2f0e8a11",
            "sub": "3cf65d5e-1d46-4f0c-9a37-6d1d2f0e8a11",
            "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
            "uti": "kN0sZ2lYbkuQ",
            "ver": "1.0",
            "xms_mirid": "/subscriptions/1/resourcegroups/prod/providers/Microsoft.ManagedIdentity/"
            "userAssignedIdentities/deployer",
        },
        lifetime=86_700,
        pinned={
            "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
            "oid": "3cf65d5e-1d46-4f0c-9a37-6d1d2f0e8a11",
        },
        names={
            "xms_mirid": "/subscriptions/1/resourcegroups/prod/providers/Microsoft.ManagedIdentity/"
            "userAssignedIdentities/deployer"
        },
    ),
    # github.com/spiffe/spiffe, standards/JWT-SVID.md
    "spiffe": Documented(
        header=_JWT,
        claims={"sub": "spiffe://example.org/shop"},
        lifetime=300,
        not_before=None,
        many=True,
        pinned={"sub": "spiffe://example.org/shop"},
        names={},
    ),
}
