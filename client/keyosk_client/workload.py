"""Where platforms put the tokens that they sign for their jobs, pods and functions.

An identity is a function: it gets the audience that the token must have, and returns the token. It
may wait, because it runs in a thread where that matters. It raises ``LoginRefused`` if there is no
token, and ``TokenUnavailable`` if there may be one later. ``detect`` finds the platform that this
program runs on::

    source = TokenSource.from_workload("https://login.example")

    source = TokenSource.from_workload(
        "https://login.example", identity=workload.file("/run/spiffe/token")
    )
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

import httpx

from keyosk_client.errors import LoginRefused, TokenUnavailable

Identity = Callable[[str], str]

#: Where a job finds a token that its platform gave it under a name.
VARIABLE: Final = "KEYOSK_ID_TOKEN"
_FILE: Final = "KEYOSK_ID_TOKEN_FILE"
#: Where pods mount a token for Keyosk (docs/how-to/workload-guides.md).
MOUNTED: Final = Path("/var/run/secrets/keyosk/token")
#: What the firmware of a virtual machine says of its maker.
_MAKER: Final = Path("/sys/class/dmi/id/sys_vendor")
#: Seconds for a platform to answer.
_TIMEOUT: Final = 10.0
_BUSY: Final = (429, 500, 502, 503, 504)


def detect() -> Identity:
    """Return the identity of the platform that this program runs on. Raises ``ValueError``.

    What was said by ``KEYOSK_ID_TOKEN_FILE`` or ``KEYOSK_ID_TOKEN`` comes first. Nothing is
    requested yet.
    """
    environment = os.environ
    if environment.get(_FILE):
        return file(environment[_FILE])
    if environment.get(VARIABLE):
        return variable()
    if environment.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        return github()
    if environment.get("BUILDKITE") == "true":
        return buildkite()
    if MOUNTED.exists():
        return file(MOUNTED)
    if environment.get("SPIFFE_ENDPOINT_SOCKET"):
        return spiffe()
    if environment.get("IDENTITY_ENDPOINT"):
        return azure()
    if environment.get("K_SERVICE"):
        return google()
    try:
        made_by = _MAKER.read_text(encoding="utf-8").strip()
    except OSError:
        made_by = ""
    if made_by in _CLOUDS:
        return _CLOUDS[made_by]()
    raise ValueError(
        "No platform that gives tokens was found. GitHub Actions needs the permission id-token: "
        f"write; elsewhere set {VARIABLE} or {_FILE}, or give an identity of "
        "keyosk_client.workload."
    )


def variable(name: str = VARIABLE) -> Identity:
    """Return what an environment variable has: the ``id_tokens`` of GitLab CI."""

    def identity(_: str) -> str:
        return _token(os.environ.get(name, ""), f"the variable {name}")

    return identity


def file(path: str | os.PathLike[str]) -> Identity:
    """Return what a file has, which is read each time: the platform replaces it.

    A projected service account token of Kubernetes, or a JWT-SVID that spiffe-helper writes.
    """
    place = Path(path)

    def identity(_: str) -> str:
        try:
            return _token(place.read_text(encoding="utf-8"), str(place))
        except OSError as error:
            raise _nothing(f"{place} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise _nothing(f"There is no token in {place}.") from None

    return identity


def github() -> Identity:
    """Request a token of GitHub Actions; the job needs the permission ``id-token: write``."""

    def identity(audience: str) -> str:
        url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", "")
        secret = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
        if not url or not secret:
            raise _nothing("The job lacks the permission id-token: write.")
        headers = {"Authorization": f"Bearer {secret}"}
        response = _get(
            "GitHub Actions", url, {"audience": audience}, headers=headers, is_near=False
        )
        return _member(response, "value", "GitHub Actions")

    return identity


def buildkite(*claims: str) -> Identity:
    """Have ``buildkite-agent`` request a token.

    ``claims``: optional claims that it shall have; by default the ids of organization and pipeline.
    """
    named = ",".join(claims or ("organization_id", "pipeline_id"))

    def identity(audience: str) -> str:
        command = ["buildkite-agent", "oidc", "request-token", "--audience", audience]
        try:
            # SECURITY: no shell; what it writes of faults may have a secret and is not read.
            ended = subprocess.run(  # noqa: S603
                [*command, "--claim", named],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT * 3,
                check=True,
            )
        except OSError as error:
            raise _nothing(f"buildkite-agent cannot be run: {error.strerror}.") from None
        except subprocess.SubprocessError as error:
            raise _not_now("buildkite-agent", type(error).__name__) from None
        return _token(ended.stdout.decode(errors="replace"), "buildkite-agent")

    return identity


def google(account: str = "default") -> Identity:
    """Request a token of Google Cloud's metadata server, for one of its service accounts."""

    def identity(audience: str) -> str:
        host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
        url = f"http://{host}/computeMetadata/v1/instance/service-accounts/{account}/identity"
        query = {"audience": audience, "format": "full"}
        response = _get("Google Cloud", url, query, headers={"Metadata-Flavor": "Google"})
        return _token(response.text, "the response of Google Cloud")

    return identity


def azure(client_id: str | None = None) -> Identity:
    """Request a token of Azure's managed identity: of a virtual machine, or of App Service.

    ``client_id``: which identity, if there are several. The audience must be an application that
    the tenant knows.
    """

    def identity(audience: str) -> str:
        query = {"resource": audience}
        if client_id is not None:
            query["client_id"] = client_id
        endpoint = os.environ.get("IDENTITY_ENDPOINT")
        if endpoint:
            headers = {"X-IDENTITY-HEADER": os.environ.get("IDENTITY_HEADER", "")}
            query["api-version"] = "2019-08-01"
        else:
            endpoint, headers = _AZURE_METADATA, {"Metadata": "true"}
            query["api-version"] = "2018-02-01"
        return _member(_get("Azure", endpoint, query, headers=headers), "access_token", "Azure")

    return identity


def spiffe(socket: str | None = None) -> Identity:
    """Request a JWT-SVID of SPIFFE's Workload API; needs the package ``spiffe``.

    ``socket``: by default what ``SPIFFE_ENDPOINT_SOCKET`` says.
    """

    def identity(audience: str) -> str:
        try:
            library = import_module("spiffe")
        except ImportError:
            raise _nothing("Install the package spiffe, or read a file of spiffe-helper.") from None
        try:
            with library.WorkloadApiClient(socket, default_timeout=_TIMEOUT) as client:
                text: str = client.fetch_jwt_svid(audience={audience}).token
        except Exception as error:  # noqa: BLE001 - of gRPC, of the library, of the socket
            raise _not_now("SPIFFE", type(error).__name__) from None
        return _token(text, "the response of SPIFFE")

    return identity


_AZURE_METADATA: Final = "http://169.254.169.254/metadata/identity/oauth2/token"
_CLOUDS: Final[Mapping[str, Callable[[], Identity]]] = {
    "Google": google,
    "Microsoft Corporation": azure,
}


def _get(
    platform: str,
    url: str,
    query: Mapping[str, str],
    *,
    headers: Mapping[str, str],
    is_near: bool = True,
) -> httpx.Response:
    """Return a platform's response. Raises ``LoginRefused``, ``TokenUnavailable``.

    ``is_near``: it is on this machine, where no proxy leads.
    """
    try:
        # SECURITY: no redirect is followed: what proves this program would go elsewhere.
        with httpx.Client(timeout=_TIMEOUT, trust_env=not is_near) as client:
            full = httpx.URL(url).copy_merge_params(dict(query))
            response = client.get(full, headers=dict(headers))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _not_now(platform, type(error).__name__) from None
    status = response.status_code
    if status in _BUSY:
        raise _not_now(platform, f"status {status}")
    if status != 200:
        raise _nothing(f"{platform} gives no token: status {status}.")
    return response


def _member(response: httpx.Response, name: str, platform: str) -> str:
    place = f"the response of {platform}"
    try:
        return _token(response.json()[name], place)
    except (ValueError, LookupError, TypeError):
        raise _nothing(f"There is no token in {place}.") from None


def _token(text: object, place: str) -> str:
    """Return a token without what stands around it. Raises ``LoginRefused``."""
    token = text.strip("\ufeff \t\r\n") if isinstance(text, str) else ""
    if not token.isascii() or token.count(".") != 2:
        raise _nothing(f"There is no token in {place}.")
    return token


def _nothing(description: str) -> LoginRefused:
    return LoginRefused("no_identity", description)


def _not_now(platform: str, reason: str) -> TokenUnavailable:
    return TokenUnavailable(f"{platform} gives no token now: {reason}.")
