"""Parses database URLs: which database, and the parameters for libpq.

A URL is parsed by its grammar, never searched for text. Unknown parameters are refused by name,
never passed on or silently ignored.

SECURITY: no sentence here repeats a value. Only the names of parameters are repeated.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

#: The parameters of libpq (PostgreSQL 18), except ``replication``, which allows no queries.
_PARAMETERS: Final = frozenset({
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "require_auth",
    "channel_binding", "connect_timeout", "client_encoding", "options", "application_name",
    "fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "gssencmode", "sslmode", "sslnegotiation",
    "sslcompression", "sslcert", "sslkey", "sslkeylogfile", "sslpassword", "sslcertmode",
    "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "min_protocol_version", "max_protocol_version", "krbsrvname",
    "gsslib", "gssdelegation", "scram_client_key", "scram_server_key", "service", "servicefile",
    "target_session_attrs", "load_balance_hosts", "oauth_issuer", "oauth_client_id",
    "oauth_client_secret", "oauth_scope",
})  # fmt: skip
_SECRETS: Final = (
    "password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key",
)  # fmt: skip
_PARAMETER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}")
_LONGEST_CONNECT_TIMEOUT: Final = 60  # seconds
# SECURITY: strict, so that the secret parts of an accepted URL are known.
_POSTGRESQL: Final = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^\s:/?#@]*)(?P<password>:[^\s/?#@]*)?@)?"
    r"(?P<hosts>[^\s/?#@]*)(?:/(?P<dbname>[^\s/?#@]*))?(?P<query>\?[^\s#@]*)?"
)
_HOST: Final = re.compile(
    r"(?:\[(?P<ipv6>[^\s\[\]]+)\]|(?P<name>[^\s:\[\]]*))(?::(?P<port>[0-9]*))?"
)

_SQLITE_FORM: Final = "must be sqlite:///relative/file or sqlite:////absolute/file"
_POSTGRESQL_FORM: Final = (
    "must be postgresql://user:password@host:port/database, with special characters of user name "
    "and password as percent codes (@ is %40)"
)
_HINTS: Final = {
    "schema": "; give the schema by KEYOSK_DATABASE_SCHEMA",
    "currentSchema": "; give the schema by KEYOSK_DATABASE_SCHEMA",
    "search_path": "; give the schema by KEYOSK_DATABASE_SCHEMA",
}


class BadUrl(ValueError):
    """The text is not a database URL; the message says what it must be."""


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A SQLite file. Its path is taken as it is written, also spaces and percent signs."""

    path: Path
    text: str
    #: The URL for people.
    masked: str


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """A PostgreSQL database: the parameters of libpq that the URL gives, decoded."""

    parameters: Mapping[str, str] = field(repr=False)
    text: str = field(repr=False)
    #: The URL for people, without its password and its parameters.
    masked: str

    def hide_secrets(self, text: str) -> str:
        """Return ``text`` without any secret of the URL."""
        for name in _SECRETS:
            if secret := self.parameters.get(name):
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return text


DatabaseUrl = SqliteUrl | PostgresqlUrl


def parse(text: str) -> DatabaseUrl:
    """Parse a database URL. Raises ``BadUrl``."""
    scheme, colon, rest = text.partition(":")
    if ":memory:" in text or (scheme == "sqlite" and rest in ("", "//", "///")):
        raise BadUrl("must name a file: in memory each process would have its own data")
    if scheme == "sqlite" and colon:
        return _sqlite(text, rest)
    if scheme in ("postgresql", "postgres") and colon:
        return _postgresql(text)
    raise BadUrl("must begin with sqlite:/// or postgresql://")


def _sqlite(text: str, rest: str) -> SqliteUrl:
    place, mark, query = rest.partition("?")
    if mark:
        name = query.partition("=")[0]
        suffix = f" {name}" if _PARAMETER_NAME.fullmatch(name) else ""
        raise BadUrl(f"{_SQLITE_FORM}, without parameters: the parameter{suffix} is not known here")
    path = place.removeprefix("///")
    if path == place or not path or path.endswith("/") or "#" in path or not path.isprintable():
        raise BadUrl(_SQLITE_FORM)
    if path.startswith(("~", "$")) or "${" in path:
        # It would be a folder of that name, in whatever folder Keyosk starts in.
        raise BadUrl("must have its path written out: only shells replace ~ and $")
    return SqliteUrl(Path(path), text, text)


def _postgresql(text: str) -> PostgresqlUrl:
    parts = _POSTGRESQL.fullmatch(text)
    if parts is None:
        raise BadUrl(_POSTGRESQL_FORM)
    hosts = [_HOST.fullmatch(host) for host in parts["hosts"].split(",")]
    parameters: dict[str, str] = {
        "user": parts["user"] or "",
        "password": (parts["password"] or ":")[1:],
        "host": ",".join(host["ipv6"] or host["name"] for host in hosts if host),
        "port": ",".join(host["port"] or "" for host in hosts if host),
        "dbname": parts["dbname"] or "",
    }
    if not all(hosts):
        raise BadUrl(_POSTGRESQL_FORM)
    if not parameters["port"].strip(","):
        del parameters["port"]
    parameters = {name: _decoded(value) for name, value in parameters.items() if value}
    _add_query(parameters, (parts["query"] or "?")[1:])
    if "dbname" not in parameters and "service" not in parameters:
        raise BadUrl(_POSTGRESQL_FORM)
    login = (parts["user"] or "") + (":***" if parts["password"] else "")
    place = parts["hosts"] + ("" if parts["dbname"] is None else f"/{parts['dbname']}")
    # SECURITY: all parameters, because libpq has several secret ones and adds more over time.
    query = "?***" if parts["query"] else ""
    # Both schemes are the same to libpq; one is used from here on.
    canonical = "postgresql" + text[text.index(":") :]
    return PostgresqlUrl(
        parameters, canonical, f"postgresql://{login}{'@' if login else ''}{place}{query}"
    )


def _add_query(parameters: dict[str, str], query: str) -> None:
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        name = _decoded(name)
        if not equals or not _PARAMETER_NAME.fullmatch(name):
            raise BadUrl(f"{_POSTGRESQL_FORM}; its parameters must be name=value")
        if name == "ssl" and value == "true":  # as JDBC writes it; libpq accepts it
            name, value = "sslmode", "require"
        if name not in _PARAMETERS:
            raise BadUrl(f"has the parameter {name}, which is not known here{_HINTS.get(name, '')}")
        if parameters.setdefault(name, decoded := _decoded(value)) != decoded:
            raise BadUrl(f"gives {name} twice; keep one")
    _check_ours(parameters)


def _check_ours(parameters: Mapping[str, str]) -> None:
    """Refuse parameters that contradict what Keyosk needs, by name."""
    timeout = parameters.get("connect_timeout")
    if timeout is not None and not (
        re.fullmatch(r"[0-9]{1,2}", timeout) and 1 <= int(timeout) <= _LONGEST_CONNECT_TIMEOUT
    ):
        raise BadUrl(f"has a connect_timeout that is not 1 to {_LONGEST_CONNECT_TIMEOUT} seconds")
    encoding = parameters.get("client_encoding", "UTF8").lower().replace("-", "")
    if encoding not in ("utf8", "unicode"):
        raise BadUrl("has a client_encoding other than UTF8, which Keyosk needs")


def _decoded(value: str) -> str:
    """Decode percent codes as libpq does; it also refuses malformed ones and %00."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", value):
        raise BadUrl(_POSTGRESQL_FORM)
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise BadUrl("has percent codes that are not UTF-8") from None
