"""What is measured: a row for each request, and the targets of the rows."""

import base64
import json
import math
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import servers
from servers import Server

CONNECTIONS: Final = 16
#: Names of rows that others are compared with.
FLOOR: Final = "bare Flask JSON, gunicorn gthread"
PEER: Final = "token by client secret, oidc-provider"
ARGON2: Final = "bare argon2id"
#: Tokens of a connection: those of half of the connections are more than a process remembers.
_WORKLOAD_TOKENS: Final = 600
_LOAD: Final = Path(__file__).parent / "load.py"


@dataclass(frozen=True)
class Sample:
    """One round of one row: microseconds of CPU a request, requests a second, milliseconds."""

    cpu: float
    rate: float
    p50: float | None = None
    p99: float | None = None
    #: The share of the processors that other work took meanwhile.
    others: float = 0.0


@dataclass
class Row:
    """Something that is measured, round after round."""

    name: str
    measure: Callable[["Row", float], Sample]
    seconds: float = 1.0  # as a multiple of the usual
    samples: list[Sample] = field(default_factory=list)
    #: The requests that each connection sends in turn, where it is about a server.
    connections: list[list[bytes]] = field(default_factory=list)

    def median(self, what: str) -> float | None:
        """The median of one figure of the samples."""
        values = [getattr(sample, what) for sample in self.samples]
        return None if None in values else statistics.median(values)


@dataclass(frozen=True)
class Target:
    """A limit for a figure of each round.

    ``value`` computes it from the samples of this row and of those in ``beside``, by row.
    """

    row: str
    text: str
    limit: float
    value: Callable[[Mapping[str, Sample]], float]
    beside: tuple[str, ...] = (FLOOR,)
    at_least: bool = False
    unit: str = "x"

    def is_met_by(self, value: float) -> bool:
        """Whether a figure meets the target."""
        return value >= self.limit if self.at_least else value <= self.limit


def cpu_over(row: str, *others: str) -> Callable[[Mapping[str, Sample]], float]:
    """The CPU time of a row as a multiple of that of others together."""
    return lambda samples: samples[row].cpu / sum(samples[other].cpu for other in others)


# --- The rows of the whole ------------------------------------------------------------------------


def reference_rows(floor: Server, peer: Server | None) -> list[Row]:
    """The floor, and the fastest other system where it could be installed."""
    reference = [http_row(FLOOR, floor, [_request("GET", "/")], expected="200")]
    if peer is not None:
        form = "grant_type=client_credentials&scope=bench:read+bench:write"
        request = _request(
            "POST", "/token", basic=("bench", peer.environment["PEER_SECRET"]), form=form
        )
        reference.append(http_row(PEER, peer, [request], expected="token", jwks="/jwks"))
    return reference


def keyosk_rows(server: Server, database: str, url: str) -> list[Row]:
    """Return the rows of a Keyosk. ``url``: that of a database for bare transactions."""
    scene = Scene(server)

    def row(name: str, requests: Sequence[bytes], expected: str = "200", **options: Any) -> Row:
        return http_row(f"{name}, {database}", server, requests, expected=expected, **options)

    durable = Row(f"bare durable transaction, {database}", _bare("durable", database=url))
    chains = [[scene.refresh_request()] for _ in range(CONNECTIONS)]
    refresh = row("refresh", [], "refresh", connections=chains)
    patches = [scene.patch_requests(number) for number in range(CONNECTIONS)]
    by_key = row("token by API key", [scene.token_request(scene.key)], "token")
    by_password = row(
        "token by password",
        [scene.token_request(scene.password)],
        "token",
        seconds=3,
    )
    beside = f"token by API key beside passwords, {database}"
    return [
        by_key,
        by_password,
        mixed_row(beside, by_key, by_password),
        row("token by workload", [], "token", connections=scene.workload_requests()),
        row("JWK set", [_request("GET", "/auth/jwks")]),
        row("JWK set not modified", [scene.conditional_request()], "304"),
        row("account by Bearer", [scene.account_request()]),
        row("introspection", [scene.introspection_request()], "active"),
        row("forward-auth by Bearer", [scene.forward_request()]),
        durable,
        refresh,
        row("PATCH of an account", [], "200", connections=patches),
    ]


def hashing_row() -> Row:
    """Bare argon2id at the cost that Keyosk hashes with by default, on as many cores."""
    from argon2 import PasswordHasher  # noqa: PLC0415  # only here

    password = secrets.token_urlsafe(24)
    stored = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(password)
    job = _bare("argon2", stored=stored, password=password, threads=servers.WORKERS)
    return Row(ARGON2, job, seconds=3)


def mixed_row(name: str, key: Row, password: Row) -> Row:
    """API-key tokens while passwords are verified; ``others`` is what the passwords took."""

    def measure(_: Row, seconds: float) -> Sample:
        with ThreadPoolExecutor(2) as both:
            beside = both.submit(password.measure, password, seconds)
            by_key = both.submit(key.measure, key, seconds).result()
            took = beside.result().rate * password.samples[-1].cpu / 1e6
        # The CPU time of the server is that of both.
        return replace(by_key, cpu=math.nan, others=took / (os.cpu_count() or 1))

    return Row(name, measure, seconds=3)


def targets(database: str, *, with_peer: bool) -> list[Target]:
    """Return the targets of the rows of one database."""

    def of(name: str) -> str:
        return f"{name}, {database}"

    key, password = of("token by API key"), of("token by password")
    all_targets = []
    if with_peer and database == "SQLite":
        all_targets.append(Target(key, "CPU / oidc-provider", 1.0, cpu_over(key, PEER), (PEER,)))
    limit = 1.2 if database == "SQLite" else 1.5
    all_targets += [
        Target(key, "CPU / floor", limit, cpu_over(key, FLOOR)),
        Target(
            password,
            "of the rate of bare argon2id",
            0.93,
            lambda samples: samples[password].rate / samples[ARGON2].rate,
            (ARGON2,),
            at_least=True,
        ),
        Target(
            password,
            "CPU beside the hash",
            1.0,
            lambda samples: (samples[password].cpu - samples[ARGON2].cpu) / 1000,
            (ARGON2,),
            unit=" ms",
        ),
    ]
    beside = of("token by API key beside passwords")
    all_targets.append(
        Target(
            beside,
            "of the rate that the passwords leave",
            1.0,
            lambda samples: (
                samples[beside].rate / (samples[key].rate * (1 - samples[beside].others))
            ),
            (key, password),
            at_least=True,
        )
    )
    for name, bound in (
        ("JWK set", 0.6),
        ("JWK set not modified", 0.6),
        ("account by Bearer", 1.5),
        ("introspection", 1.5),
        ("forward-auth by Bearer", 1.5),
    ):
        all_targets.append(Target(of(name), "CPU / floor", bound, cpu_over(of(name), FLOOR)))
    durable, workload = of("bare durable transaction"), of("token by workload")
    all_targets.append(
        Target(
            workload,
            "CPU / (durable transaction + token by API key)",
            3.0,
            cpu_over(workload, durable, key),
            (durable, key),
        )
    )
    all_targets.append(
        Target(
            of("refresh"),
            "CPU / (durable transaction + token by API key)",
            1.2,
            cpu_over(of("refresh"), durable, key),
            (durable, key),
        )
    )
    return all_targets


# --- The scene ------------------------------------------------------------------------------------


class Scene:
    """Accounts as users have them: a service with two scopes, who holds them, an admin."""

    def __init__(self, server: Server) -> None:
        self._server = server
        number = secrets.token_hex(4)
        self._service, self._username = f"bench-{number}", f"bencher-{number}"
        self.path = f"/accounts/{self._username}"
        self.password = (self._username, secrets.token_urlsafe(24))
        form = "audience=keyosk&lifetime=900"
        self.admin = self._token(form, ("admin", server.environment["KEYOSK_ADMIN_PASSWORD"]))
        scopes = [f"{self._service}:read", f"{self._service}:write"]
        grants = {"scopes": scopes}
        account = {"username": self._username, "password": self.password[1], "grants": grants}
        self._create("/services", {"name": self._service, "scopes": scopes})
        self._create("/accounts", account)
        of_service = {"refresh_allowed": True, "account": self._username}
        servers.call(
            server, "PATCH", f"/services/{self._service}", login=self.admin, body=of_service
        )
        key = self._create(f"{self.path}/api-keys", {"name": "bench"})["secret"]
        self.key = (self._username, key)
        self._bearer = self._token("", self.key)

    def token_request(self, login: tuple[str, str]) -> bytes:
        return _request("POST", "/auth/token", basic=login, form="")

    def refresh_request(self) -> bytes:
        scope = f"{self._service}:read+offline_access"
        token = self._server_call(f"scope={scope}", self.password)["refresh_token"]
        form = f"grant_type=refresh_token&refresh_token={token}"
        return _request("POST", "/auth/token", form=form)

    def workload_requests(self) -> list[list[bytes]]:
        """Return enough requests for each connection that no remembered signature is used."""
        import jwt  # noqa: PLC0415  # only here
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
        from jwt.algorithms import RSAAlgorithm  # noqa: PLC0415

        name, issuer = f"{self._service}-ci", f"https://{self._service}.example.com"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "1"}
        fields = {"issuer": issuer, "audience": "bench", "keys": {"keys": [public]}}
        scopes = [f"{self._service}:read", f"{self._service}:write"]
        grants = {"scopes": scopes}
        self._create("/accounts", {"username": name, "kind": "machine", "grants": grants})
        servers.call(
            self._server, "PATCH", f"/services/{self._service}", login=self.admin,
            body={"accepts": "any"},
        )  # fmt: skip
        preset = {"name": name, "preset": "github", "max_lifetime": 86_400}
        self._create("/issuers", {**preset, **fields})
        rule = {"name": "bench", "account": name, "claims": {"repository_id": "1"}}
        self._create(f"/issuers/{name}/rules", rule)
        now = int(time.time())
        claims = {"iss": issuer, "aud": "bench", "sub": "repo:bench/bench", "repository_id": "1"}
        times = {"iat": now - 1, "exp": now + 43_200}

        def request() -> bytes:
            token = jwt.encode(
                {**claims, **times, "jti": secrets.token_hex(16)}, key, "RS256", {"kid": "1"}
            )
            form = f"grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion={token}"
            return _request("POST", "/auth/token", form=form)

        return [[request() for _ in range(_WORKLOAD_TOKENS)] for _ in range(CONNECTIONS)]

    def account_request(self) -> bytes:
        return _request("GET", self.path, bearer=self.admin)

    def introspection_request(self) -> bytes:
        form = f"token={self._bearer}"
        return _request("POST", "/auth/introspect", basic=self.key, form=form)

    def forward_request(self) -> bytes:
        path = f"/auth/forward?service={self._service}"
        return _request("GET", path, bearer=self._bearer)

    def conditional_request(self) -> bytes:
        etag = servers.etag(self._server, "/auth/jwks")
        return _request("GET", "/auth/jwks", more=(f"If-None-Match: {etag}",))

    def patch_requests(self, number: int) -> list[bytes]:
        """Return two requests, each of which undoes the other."""
        name = f"{self._username}-{number}"
        self._create("/accounts", {"username": name})
        return [
            _request("PATCH", f"/accounts/{name}", bearer=self.admin, body={"display_name": text})
            for text in ("One", "Other")
        ]

    def _create(self, path: str, body: object) -> dict[str, Any]:
        return servers.call(self._server, "POST", path, login=self.admin, body=body)

    def _token(self, form: str, login: tuple[str, str]) -> str:
        return str(self._server_call(form, login)["access_token"])

    def _server_call(self, form: str, login: tuple[str, str]) -> dict[str, Any]:
        return servers.call(self._server, "POST", "/auth/token", login=login, body=form)


def _request(
    method: str,
    path: str,
    *,
    basic: tuple[str, str] | None = None,
    bearer: str = "",
    form: str | None = None,
    body: object = None,
    more: Sequence[str] = (),
) -> bytes:
    """A request as curl would send it, to be sent over and over."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: */*", "User-Agent: bench", *more]
    if basic:
        pair = base64.b64encode(":".join(basic).encode()).decode()
        lines.append(f"Authorization: Basic {pair}")
    if bearer:
        lines.append(f"Authorization: Bearer {bearer}")
    content = ""
    if body is not None:
        content, kind = json.dumps(body), "application/json"
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    elif form is not None:
        content, kind = form, "application/x-www-form-urlencoded"
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", content]).encode()


# --- How a row is measured ------------------------------------------------------------------------


def http_row(
    name: str,
    server: Server,
    requests: Sequence[bytes],
    *,
    expected: str,
    jwks: str = "/auth/jwks",
    connections: list[list[bytes]] | None = None,
    seconds: float = 1.0,
) -> Row:
    """A row of requests to a server (``load.py``), each connection sending its own if given."""

    def measure(row: Row, seconds: float) -> Sample:
        before = server.cpu_seconds()
        result = _run(
            kind="http",
            port=server.port,
            seconds=seconds,
            connections=[
                [base64.b64encode(each).decode() for each in turn] for turn in row.connections
            ],
            expected=expected,
            jwks=jwks,
        )
        cpu = server.cpu_seconds() - before
        row.connections = [
            [base64.b64decode(each) for each in turn] for turn in result["connections"]
        ]
        return Sample(
            cpu / result["count"] * 1e6,
            result["count"] / result["seconds"],
            result["p50"] * 1000,
            result["p99"] * 1000,
        )

    every = connections or [list(requests)] * CONNECTIONS
    return Row(name, measure, seconds, connections=every)


def _bare(kind: str, **job: object) -> Callable[[Row, float], Sample]:
    def measure(_: Row, seconds: float) -> Sample:
        result = _run(kind=kind, seconds=seconds, **job)
        count = result["count"]
        return Sample(result["cpu"] / count * 1e6, count / result["seconds"])

    return measure


def _run(**job: object) -> dict[str, Any]:
    """Do a job in a process of its own."""
    ran = subprocess.run(
        [sys.executable, str(_LOAD)], input=json.dumps(job), stdout=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        raise SystemExit(1)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found
