"""The table of metrics: each family with its type, labels and description.

``/metrics``, ``docs/metrics.md`` and the test of the dashboard and the alerts derive from it. Names
and units follow Prometheus' conventions: base units, ``_total`` for counters (added when they are
shown), ``_timestamp_seconds`` for moments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
#: A family's name and the values of its labels, in their order.
Key = tuple[str, ...]

CREDENTIALS: Final = ("password", "api_key")
ALGORITHMS: Final = ("ES256", "RS256", "PS256", "EdDSA", "ML-DSA-44", "ML-DSA-65")
#: The ways to request a token: grant types, and names of ours for other ways.
GRANT_TYPES: Final = (
    "client_credentials",
    "refresh_token",
    "token_exchange",
    "forward_auth",
    "registry",
)
#: Why a token was refused: the error codes of the token endpoint.
TOKEN_ERRORS: Final = (
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
)
KEY_STATES: Final = ("next", "active", "retired", "compromised")
THROTTLED: Final = ("account", "source", "account_and_source")
#: Upper limits in seconds: of what takes milliseconds, and of what may wait for a while.
BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: The names of the buckets of a histogram, and of its sum.
LIMITS: Final = (*map(str, BUCKETS), "+Inf")
SUM: Final = "sum"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    ``values``: those that each label has from the start, in the order of ``labels``; an empty tuple
    where they depend on the installation.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    @property
    def shown_name(self) -> str:
        """The name as Prometheus sees it, without the endings of a histogram's series."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def known(self) -> Iterator[Key]:
        """Return the series that exist in every installation."""
        for values in product(*self.values):
            if len(values) == len(self.labels):
                yield (self.name, *values)


REQUESTS: Final = "keyosk_http_requests"
REQUEST_SECONDS: Final = "keyosk_http_request_seconds"
IN_FLIGHT: Final = "keyosk_http_requests_in_flight"
JWKS_FETCHES: Final = "keyosk_jwks_fetches"
TOKENS: Final = "keyosk_tokens_issued"
SERVICE_TOKENS: Final = "keyosk_service_tokens_issued"
TOKENS_REFUSED: Final = "keyosk_tokens_refused"
LOGINS_REFUSED: Final = "keyosk_logins_refused"
HASHING: Final = "keyosk_hashing_active"
HASHING_WAITING: Final = "keyosk_hashing_waiting"
HASHING_REFUSED: Final = "keyosk_hashing_refused"
HASHING_SECONDS: Final = "keyosk_hashing_seconds"
QUERY_SECONDS: Final = "keyosk_database_query_seconds"
DATABASE_FAILURES: Final = "keyosk_database_failures"
REPEATED: Final = "keyosk_idempotent_requests"

FAMILIES: Final = (
    Family(
        "keyosk_build_info",
        "gauge",
        "Always 1; the labels say which version this is and what it runs on.",
        ("version", "python", "database"),
    ),
    Family(
        "keyosk_up",
        "gauge",
        "1 if Keyosk serves requests, 0 while it waits for its database at the start or is about "
        "to stop.",
    ),
    Family(
        "keyosk_start_timestamp_seconds",
        "gauge",
        "When this Keyosk started; all counters count from then on.",
    ),
    Family("keyosk_workers", "gauge", "Worker processes that run now."),
    Family(
        REQUESTS,
        "counter",
        "HTTP responses, by route (a path as in the API reference) and status.",
        ("method", "route", "status"),
    ),
    Family(
        REQUEST_SECONDS,
        "histogram",
        "Time from a whole request to the beginning of its response.",
        ("route",),
    ),
    Family(IN_FLIGHT, "gauge", "Requests that have no response yet."),
    Family(
        JWKS_FETCHES,
        "counter",
        "Fetches of a key set: sent whole, or not modified since the caller's last fetch.",
        ("result",),
        (("sent", "not_modified", "failed"),),
    ),
    Family(
        TOKENS,
        "counter",
        "Access tokens issued, by what proved the login, by signature, and by the way they were "
        "requested.",
        ("credential", "algorithm", "grant_type"),
        (CREDENTIALS, ALGORITHMS, GRANT_TYPES),
    ),
    Family(
        SERVICE_TOKENS,
        "counter",
        "Access tokens issued for a service; a token for several services counts for each. "
        "`none`: only proof of identity; `other`: services beyond the first 200, or deleted.",
        ("service",),
        (("none", "other"),),
    ),
    Family(
        TOKENS_REFUSED,
        "counter",
        "Token requests refused, by the error code in the response.",
        ("reason",),
        (TOKEN_ERRORS,),
    ),
    Family(
        LOGINS_REFUSED,
        "counter",
        "Logins refused: the credential was wrong, or throttling refused to look at it.",
        ("reason",),
        (("wrong", "throttled"),),
    ),
    Family(
        "keyosk_throttled",
        "gauge",
        "Allowances of login attempts that are used up now: of an account, of a source, or of one "
        "source at one account.",
        ("kind",),
        (THROTTLED,),
    ),
    Family(
        "keyosk_hashing_slots", "gauge", "Password hashes that may run at once on this machine."
    ),
    Family(HASHING, "gauge", "Logins by password that hold a hashing slot now."),
    Family(HASHING_WAITING, "gauge", "Logins by password that wait for a hashing slot now."),
    Family(
        HASHING_REFUSED,
        "counter",
        "Logins by password refused because no hashing slot became free.",
    ),
    Family(
        HASHING_SECONDS,
        "histogram",
        "Time for which a login held a hashing slot: the hash and its look-ups.",
    ),
    Family(
        "keyosk_database_up",
        "gauge",
        "1 if the database answered at the last look, 0 if not; the metrics that are read from it "
        "then keep their last values.",
    ),
    Family(
        "keyosk_database_read_timestamp_seconds",
        "gauge",
        "When the metrics that come from the database were last read; 0 for never.",
    ),
    Family(
        "keyosk_database_connections",
        "gauge",
        "Connections to the PostgreSQL database from all its clients; 0 with SQLite.",
    ),
    Family(
        "keyosk_database_connections_max",
        "gauge",
        "Connections that the PostgreSQL server allows in all; 0 with SQLite.",
    ),
    Family(
        "keyosk_database_size_bytes",
        "gauge",
        "Size of the database; with SQLite its file without the write-ahead log.",
    ),
    Family(QUERY_SECONDS, "histogram", "Time of a statement or a commit in the database."),
    Family(
        DATABASE_FAILURES,
        "counter",
        "Statements and commits that failed because the database was not available.",
    ),
    Family(
        "keyosk_signing_keys",
        "gauge",
        "Signing keys by algorithm and state.",
        ("algorithm", "state"),
        (ALGORITHMS, KEY_STATES),
    ),
    Family(
        "keyosk_signing_key_active_timestamp_seconds",
        "gauge",
        "When the key that signs now began to sign; 0 for an algorithm without a key.",
        ("algorithm",),
        (ALGORITHMS,),
    ),
    Family(
        "keyosk_signing_key_rotation_timestamp_seconds",
        "gauge",
        "When the next key begins to sign; 0 if no rotation is planned.",
        ("algorithm",),
        (ALGORITHMS,),
    ),
    Family(
        "keyosk_signing_key_laggards",
        "gauge",
        "Services that identify themselves and have not fetched the next key yet.",
        ("algorithm",),
        (ALGORITHMS,),
    ),
    Family(
        "keyosk_revocations",
        "gauge",
        "Entries in the revocation list now.",
    ),
    Family(
        "keyosk_refresh_sessions",
        "gauge",
        "Refresh sessions that have not expired.",
    ),
    Family(
        "keyosk_audit_unsealed_rows",
        "gauge",
        "Rows of the audit log that are not sealed into its chain yet.",
    ),
    Family(
        "keyosk_audit_oldest_unsealed_timestamp_seconds",
        "gauge",
        "When the oldest row that is not sealed was written; 0 if all are.",
    ),
    Family(
        "keyosk_audit_sealed_rows",
        "gauge",
        "Rows that were ever sealed into the chain of the audit log, pruned ones included.",
    ),
    Family(
        "keyosk_audit_checkpoint_timestamp_seconds",
        "gauge",
        "When the last checkpoint of the audit log was signed; 0 for none.",
    ),
    Family(
        "keyosk_audit_checkpoint_lag_rows",
        "gauge",
        "Sealed rows of the audit log that no checkpoint covers yet.",
    ),
    Family(
        REPEATED,
        "counter",
        "Requests with an Idempotency-Key: the first with its key, repeated with the stored "
        "response, or refused because the key belongs to another request.",
        ("result",),
        (("first", "repeated", "refused"),),
    ),
    Family(
        "keyosk_idempotency_stored_responses",
        "gauge",
        "Responses that are stored for a repeated Idempotency-Key.",
    ),
)
BY_NAME: Final = {family.name: family for family in FAMILIES}
#: Gauges in memory, which are reset when their process ends.
PASSING: Final = frozenset({IN_FLIGHT, HASHING, HASHING_WAITING})
