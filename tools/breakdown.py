"""Shows where the time of a request goes, by layer and by library.

``make profile`` sends a request over and over to a Keyosk in this very process, without a server,
and prints what it took, and the share of each part as cProfile sees it. cProfile makes calls dearer
than they are, so a part of many small functions looks larger than it is: the shares show where to
look, ``make bench`` shows what a change gained.
"""

import argparse
import base64
import cProfile
import io
import json
import logging
import os
import pstats
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from werkzeug.test import create_environ

from keyosk import app, config
from keyosk.installation import Installation
from keyosk.model import OPERATOR, CredentialKind, Grant, Kind, Scope
from keyosk.server import JsonFormatter, LineHandler, LogStream

_ROOT: Final = Path(app.__file__).parent
_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def main() -> int:
    """Measure and print; returns the exit code."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="keyosk-profile-") as folder:
        keyosk = _Keyosk(Path(folder))

        def send() -> None:
            keyosk.send(arguments.request)

        count = {"password": 50, "workload": 500}.get(arguments.request, 2000)
        for _ in range(count // 10):
            send()  # the first ones fill caches
        took = min(_seconds(send, count // 5) for _ in range(5)) * 1e6
        # CPU time, which does not include waiting for the disk.
        profile = cProfile.Profile(time.thread_time)
        profile.enable()
        for _ in range(count):
            send()
        profile.disable()
    _print(profile, took, count=count, lines=arguments.lines)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make profile", description="Where a request's time goes."
    )
    parser.add_argument(
        "--request",
        choices=(
            *("key", "password", "refresh", "workload"),
            *("jwks", "account", "introspection", "forward"),
        ),
        default="key",
        help="a token by API key (default), by password, by a refresh token or by the token of a "
        "workload; the JWK set; an account by Bearer; ...",
    )
    parser.add_argument(
        "--lines", type=int, default=0, help="also show so many functions, the dearest first"
    )
    return parser.parse_args()


class _Keyosk:
    """One in this process, with a service, an account that acts for it, and an admin."""

    def __init__(self, folder: Path) -> None:
        password = secrets.token_urlsafe(24)
        settings = config.load(
            {
                "KEYOSK_DATABASE_URL": f"sqlite:///{folder / 'keyosk.db'}",
                "KEYOSK_ADMIN_PASSWORD": password,
            }
        )
        app.prepare(settings)
        installation = Installation(settings)
        # As in the server, each line of the log is formatted and written; here to nowhere.
        log = LineHandler(LogStream(os.open(os.devnull, os.O_WRONLY)), JsonFormatter())
        logging.basicConfig(handlers=[log], level=logging.INFO)
        self._application = app.create_app(installation, write_line=log.write).wsgi_app
        self._environs: dict[tuple[str, ...], dict[str, Any]] = {}
        scopes = [Scope("todo:read"), Scope("todo:write")]
        grants = [Grant(scope.name) for scope in scopes]
        installation.services.create(OPERATOR, name="todo", scopes=scopes, refresh_allowed=True)
        installation.grants.create_account(OPERATOR, grants, username="alice", password=password)
        installation.services.change(
            OPERATOR, "todo", {"account": "alice", "accepts": frozenset(CredentialKind)}
        )
        self._by_password = _basic("alice", password)
        self._by_key = _basic(
            "alice", installation.api_keys.create(OPERATOR, "alice", name="profile").secret
        )
        self._token = self._token_by(self._by_key)
        self._admin = self._token_by(_basic("admin", password), form="audience=keyosk")
        session = "scope=todo:read+offline_access"
        response = self._send("POST", "/auth/token", login=self._by_password, form=session)
        self._refresh_token = json.loads(response)["refresh_token"]
        self._workload = _Workload(installation)

    def send(self, kind: str) -> bytes:
        """Send a request by its name, and return the body of its response."""
        form = f"token={self._token}"
        match kind:
            case "key":
                return self._send("POST", "/auth/token", login=self._by_key)
            case "password":
                return self._send("POST", "/auth/token", login=self._by_password)
            case "refresh":
                form = f"grant_type=refresh_token&refresh_token={self._refresh_token}"
                response = self._send("POST", "/auth/token", form=form)
                self._refresh_token = json.loads(response)["refresh_token"]
                return response
            case "workload":
                form = f"grant_type={_JWT_BEARER}&assertion={self._workload.token()}"
                return self._send("POST", "/auth/token", form=form)
            case "jwks":
                return self._send("GET", "/auth/jwks")
            case "account":
                return self._send("GET", "/accounts/alice", login=f"Bearer {self._admin}")
            case "introspection":
                return self._send("POST", "/auth/introspect", login=self._by_key, form=form)
            case _:
                login = f"Bearer {self._token}"
                return self._send("GET", "/auth/forward", login=login, query="service=todo")

    def _token_by(self, login: str, *, form: str = "") -> str:
        response = self._send("POST", "/auth/token", login=login, form=form)
        token: str = json.loads(response)["access_token"]
        return token

    def _send(
        self, method: str, path: str, *, login: str = "", form: str = "", query: str = ""
    ) -> bytes:
        key = (method, path, login, query, "form" if form else "")
        if key not in self._environs:  # once, because a client does this work
            self._environs[key] = create_environ(
                path,
                method=method,
                query_string=query,
                headers={"Authorization": login} if login else {},
                content_type="application/x-www-form-urlencoded" if form else None,
            )
        environ = {
            **self._environs[key],
            "wsgi.input": io.BytesIO(form.encode()),
            "CONTENT_LENGTH": str(len(form)),
        }
        statuses: list[str] = []
        response = self._application(environ, lambda status, *_: statuses.append(status))
        body = b"".join(response)
        response.close()  # type: ignore[attr-defined]  # runs what follows the response
        if not statuses[0].startswith("200"):
            raise SystemExit(f"{statuses[0]}: {body.decode()}")
        return body


class _Workload:
    """An account that logs in by an issuer's tokens, and these tokens: each is used once."""

    _ISSUER: Final = "https://ci.example.com"

    def __init__(self, installation: Installation) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = {**RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": "1"}
        grants = [Grant("todo:read"), Grant("todo:write")]
        installation.grants.create_account(OPERATOR, grants, username="ci", kind=Kind.MACHINE)
        installation.issuers.create(
            OPERATOR,
            name="ci",
            issuer=self._ISSUER,
            audience="profile",
            keys={"keys": [public]},
            max_lifetime=86_400,
        )
        claims = {"repository_id": ("1",)}
        installation.workload_rules.create(OPERATOR, "ci", name="ci", account="ci", claims=claims)
        self._tokens: list[str] = []

    def token(self) -> str:
        """Return the next one."""
        if not self._tokens:
            self._tokens = [self._signed() for _ in range(1200)]
        return self._tokens.pop()

    def _signed(self) -> str:
        now = int(time.time())
        claims = {"iss": self._ISSUER, "aud": "profile", "sub": "ci", "repository_id": "1"}
        times = {"iat": now - 1, "exp": now + 43_200}
        jti = secrets.token_hex(16)
        return jwt.encode({**claims, **times, "jti": jti}, self._key, "RS256", {"kid": "1"})


def _basic(username: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()


def _seconds(send: Callable[[], None], count: int) -> float:
    """The CPU seconds of one request, without the profiler."""
    began = time.process_time()
    for _ in range(count):
        send()
    return (time.process_time() - began) / count


def _print(profile: cProfile.Profile, took: float, *, count: int, lines: int) -> None:
    stats = pstats.Stats(profile)
    parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (file, _, name), (_, calls, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        # Functions in C have no file: their time counts for the parts that called them.
        for part, share in _owners(file, name, callers).items():
            parts[part][0] += own * share
            parts[part][1] += calls * share
    whole = sum(own for own, _ in parts.values())
    print(f"{took:.0f} us of CPU a request, without the profiler\n")
    print(f"{'part':32}  {'share':>6}  {'us':>6}  {'calls':>6}")
    for part, (own, calls) in sorted(parts.items(), key=lambda each: -each[1][0]):
        share = own / whole
        if share >= 0.005:
            print(f"{part:32}  {share:>6.1%}  {share * took:>6.1f}  {calls / count:>6.1f}")
    if lines:
        stats.sort_stats("tottime").print_stats(lines)


def _owners(file: str, name: str, callers: dict[Any, Any]) -> dict[str, float]:
    """The parts that a function's own time belongs to, and how much of it to each."""
    if file != "~":
        return {_part(file): 1.0}
    if not callers:
        return {name: 1.0}
    spent = {caller: each[2] for caller, each in callers.items()}
    whole = sum(spent.values()) or 1.0
    found: dict[str, float] = defaultdict(float)
    for (caller, _, caller_name), own in spent.items():
        found[_part(caller) if caller != "~" else caller_name] += own / whole
    return found


def _part(file: str) -> str:
    """A layer, as ``keyosk.web``, or a library."""
    path = Path(file)
    if path.is_relative_to(_ROOT):
        return ".".join(["keyosk", path.relative_to(_ROOT).with_suffix("").parts[0]])
    parts = path.parts
    if "site-packages" in parts:
        return Path(parts[parts.index("site-packages") + 1]).stem
    package = parts[-2] if len(parts) > 1 and not parts[-2].startswith("python") else path.stem
    return f"Python's {package.strip('<>').removeprefix('frozen ')}"


if __name__ == "__main__":
    sys.exit(main())
