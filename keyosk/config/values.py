"""The rules for the values of settings, and how secret ones are shown.

A rule converts a value from TOML or the environment to that of ``Config``, or raises ``BadValue``
with what the value must be. ``whole``, ``string`` and ``one_of`` make rules.

SECURITY: no sentence here repeats a value that was given. It could be a secret, even in a setting
that is none.
"""

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from keyosk import networks, whitespace
from keyosk.config import database_urls
from keyosk.config.database_urls import PostgresqlUrl
from keyosk.errors import Fault

#: The descriptions of the settings for PKCS#11.
PKCS11: Final[Mapping[str, str]] = {
    "pkcs11_module": "The library (PKCS#11) of the HSM that makes and keeps signing keys.",
    "pkcs11_token": "The label of the token in it.",
    "pkcs11_pin": "The PIN of the token's user.",
}
_HOST_NAME: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*")
_ADDRESS: Final = r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]*)):(?P<port>[0-9]{1,5})"
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")  # RFC 3986
_UNIX: Final = "unix:"
_LONGEST_SOCKET_PATH: Final = 107  # bytes; the size of sockaddr_un on Linux
_LONGEST_IDENTIFIER: Final = 63  # PostgreSQL truncates longer ones

_PREFIX: Final = "KEYOSK_"
#: The names of the same settings in other programs.
_SYNONYMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("host", "listen", "address", "port"), "bind"),
    **dict.fromkeys(("db", "db_url", "dsn", "postgres_url"), "database_url"),
    **dict.fromkeys(("url", "base_url", "public_url", "external_url"), "issuer"),
    **dict.fromkeys(("secret", "encryption_key", "master_key"), "secret_key"),
    **dict.fromkeys(("admin", "admin_user"), "admin_username"),
    **dict.fromkeys(("ttl", "token_ttl", "expiry"), "token_lifetime"),
    **dict.fromkeys(("tls_cert", "cert", "ssl_cert"), "tls_certificate"),
}
_KUBERNETES: Final = re.compile(r"KEYOSK_(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_\w+)?)")

OFF: Final = "off"
#: Stands for all clients of a Unix socket among the trusted proxies.
UNIX: Final = "unix"
AUTO: Final = "auto"
Rule = Callable[[object], Any]


class BadValue(ValueError):
    """A value breaks the rule of its setting; the message says what it must be."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an IP address without brackets) and a TCP port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket, by its path."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: always."""
        return True


def _address(host: str, port: int, *, is_bracketed: bool) -> Address | None:
    """Return an address, or ``None`` if host or port are invalid."""
    try:
        good = ip_address(host).version == (6 if is_bracketed else 4)
    except ValueError:
        good = not is_bracketed and _HOST_NAME.fullmatch(host) is not None
    return Address(host, port) if good and 1 <= port <= 65535 else None


def _web_url(text: str) -> SplitResult | None:
    """Return an http or https URL of host, port and path only, or ``None``."""
    # SECURITY: before parsing, because urlsplit silently drops line breaks and white space.
    if not re.fullmatch(r"[!-~]+", text) or any(sign in text for sign in "?#\\"):
        return None
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return None
    # The port in canonical form, without leading zeros.
    place = url.netloc.removesuffix(f":{port}")
    host = place.removeprefix("[").removesuffix("]")
    is_bracketed = place == f"[{host}]"
    if "%" in host or not (is_bracketed or place == host):
        return None
    known = url.scheme in ("http", "https") and text.startswith(f"{url.scheme}://")
    return (
        url
        if known and _address(host, 443 if port is None else port, is_bracketed=is_bracketed)
        else None
    )


def text_of(value: object) -> str:
    """Return text unchanged."""
    if not isinstance(value, str):
        raise BadValue("must be text")
    return value


def _items(value: object) -> list[str]:
    """Return a list from TOML unchanged; split text at commas."""
    parts = value if isinstance(value, list) else text_of(value).split(",")
    return [item for item in (text_of(part).strip() for part in parts) if item]


def bind(value: object) -> Address | UnixAddress:
    """Return where to listen: ``host:port``, or ``unix:`` and the path of a socket."""
    text = text_of(value)
    return _unix(text) if text.startswith(_UNIX) else tcp(text)


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(_UNIX)
    if not path.startswith("/") or not path.isprintable() or path.endswith("/"):
        raise BadValue("must have the absolute path of a socket after unix:")
    if len(path.encode()) > _LONGEST_SOCKET_PATH:
        raise BadValue(f"must have a path of at most {_LONGEST_SOCKET_PATH} bytes")
    return UnixAddress(path)


def tcp(value: object) -> Address:
    """Return a TCP address: ``host:port``; without a host it is every IPv4 address."""
    text = text_of(value)
    if text.startswith(":"):
        text = f"0.0.0.0{text}"  # noqa: S104  # nosec B104  # the operator asks for it
    match = re.fullmatch(_ADDRESS, text)
    host = match["ipv6"] or match["host"] if match else ""
    if match is None or not (
        address := _address(host, int(match["port"]), is_bracketed=match["ipv6"] is not None)
    ):
        raise BadValue("must be host:port, :port or [IPv6 address]:port, port 1 to 65535")
    return address


def tcp_or_off(value: object) -> Address | str:
    """Return a TCP address, or ``off``."""
    return OFF if value == OFF else tcp(value)


def socket_mode(value: object) -> int:
    """Return who may connect to a Unix socket, as chmod takes it: octal digits, as text."""
    text = text_of(value)
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise BadValue("must be text of three octal digits, such as 0660")
    return int(text, 8)


def file_path(value: object) -> str:
    """Return the path of a file."""
    text = text_of(value)
    if not text or not text.isprintable():
        raise BadValue("must be the path of a file")
    return text


def issuer(value: object) -> str:
    """Return a URL that can precede every published path."""
    text = text_of(value)
    url = _web_url(text)
    # Clients resolve segments of dots, which would change the path.
    if url is None or not all(
        _SEGMENT.fullmatch(each) and unquote(each) not in (".", "..")
        for each in url.path.split("/")[1:]
    ):
        raise BadValue(
            "must be an http:// or https:// URL with a host, and without user name, query, "
            "fragment or slash at the end"
        )
    return text


def database_url(value: object) -> str:
    """Return the URL of a SQLite file or a PostgreSQL database, with a canonical scheme."""
    try:
        return database_urls.parse(text_of(value)).text
    except database_urls.BadUrl as error:
        raise BadValue(str(error)) from None


def database_schema(value: object) -> str:
    """Return the name of a schema, as PostgreSQL stores it: unquoted and case-sensitive."""
    text = text_of(value)
    if not text or not text.isprintable() or len(text.encode()) > _LONGEST_IDENTIFIER:
        raise BadValue(f"must be the name of one schema, at most {_LONGEST_IDENTIFIER} bytes long")
    return text


def prepare_threshold(value: object) -> int | str:
    """Return after how many executions a statement is prepared, ``auto`` or ``off``."""
    if value in (AUTO, OFF):
        return text_of(value)
    try:
        number: int = whole(0, 1_000)(value)
    except BadValue:
        raise BadValue("must be auto, off, or a whole number from 0 to 1000") from None
    return number


def database_faults(given: Collection[str], sound: Mapping[str, Any]) -> Iterator[Fault]:
    """Return the faults of the settings for the database together; ``sound``: valid values."""
    url = sound.get("database_url")
    is_postgresql = url is not None and isinstance(database_urls.parse(url), PostgresqlUrl)
    if "secret_key" not in given and is_postgresql:
        yield Fault("KEYOSK_SECRET_KEY", "is required with PostgreSQL (openssl rand -base64 32)")
    if "database_schema" in sound and url is not None and not is_postgresql:
        yield Fault("KEYOSK_DATABASE_SCHEMA", "is for PostgreSQL only; SQLite has no schemas")
    has_threshold = "database_prepare_threshold" in given and "database_prepare_threshold" in sound
    if has_threshold and url is not None and not is_postgresql:
        yield Fault("KEYOSK_DATABASE_PREPARE_THRESHOLD", "is for PostgreSQL only")


def secret_keys(value: object) -> tuple[str, ...]:
    """Return one secret key or several."""
    keys: tuple[str, ...] = ()
    for key in _items(value):
        # A byte order mark was once part of the key, so what that key encrypted stays readable.
        keys += (key,) if whitespace.trim(key) == key else (whitespace.trim(key), key)
    if not keys or not all(re.fullmatch(r"[^\s,]{43,}", key) for key in keys):
        raise BadValue(
            "must have at least 43 characters and no white space in each key: 32 random bytes in "
            "base64 (openssl rand -base64 32)"
        )
    return keys


def proxies(value: object) -> tuple[networks.Network | str, ...]:
    """Return addresses and networks, and the word for clients of a Unix socket; may be empty."""
    items = _items(value)
    try:
        return tuple(item if item == UNIX else networks.network(item) for item in items)
    except ValueError:
        raise BadValue(
            "must be IP addresses or networks such as 10.0.0.0/8, with no bits set after the "
            "prefix, or unix for the clients of a Unix socket"
        ) from None


def origins(value: object) -> tuple[str, ...]:
    """Return web origins as browsers send them (RFC 6454 section 6.2); may be empty.

    SECURITY: neither ``*`` nor ``null``, which any page can have.
    """
    items = _items(value)
    for item in items:
        url = _web_url(item)
        if (
            url is None
            or url.path
            or item != item.lower()
            or url.port == {"http": 80, "https": 443}[url.scheme]
        ):
            raise BadValue(
                "must be origins as browsers send them, such as https://app.example.org: lower "
                "case, without path, and without the port that is usual"
            )
    return tuple(items)


def tls_faults(given: Collection[str], sound: Mapping[str, Any]) -> Iterator[Fault]:
    """Return the faults of the settings for TLS together; ``sound``: the valid values."""
    if isinstance(sound.get("bind"), UnixAddress) and "tls_certificate" in sound:
        yield Fault("KEYOSK_TLS_CERTIFICATE", "is for TCP; a Unix socket as KEYOSK_BIND has no TLS")
    for name, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if name not in given and other in sound:
            yield Fault(_PREFIX + name.upper(), f"is required with {_PREFIX}{other.upper()}")


def missing_pkcs11(given: Collection[str], sound: Collection[str]) -> list[str]:
    """Return the missing settings for PKCS#11, if some but not all are given."""
    return [name for name in PKCS11 if name not in given] if PKCS11.keys() & sound else []


def whole(low: int, high: int) -> Rule:
    """Return a rule for whole numbers from ``low`` to ``high``."""

    def parse(value: object) -> int:
        # Not int(text), which accepts "1_000" and " 9".
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise BadValue(f"must be a whole number from {low} to {high}")
        return value

    return parse


def string(is_good: Callable[[str], object], message: str) -> Rule:
    """Return a rule for text that ``is_good`` accepts; ``message``: what it must be."""

    def parse(value: object) -> str:
        text = text_of(value)
        if not is_good(text):
            raise BadValue(message)
        return text

    return parse


def pkcs11_text(value: object) -> str:
    """Return text that is not empty and has no control characters."""
    text = text_of(value)
    if not text or not text.isprintable():
        raise BadValue("must be text in one line, and not empty")
    return text


def one_of(*words: str) -> Rule:
    """Return a rule for one of these words."""
    return string(words.__contains__, f"must be one of {', '.join(words)}")


def cores() -> int:
    """Return how many processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # respects limits that cpu_count ignores
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def hide(_: object) -> str:
    """Return a mask in place of a secret."""
    return "***"


def hide_password(url: object) -> str:
    """Return a database URL without its password and its parameters."""
    return database_urls.parse(str(url)).masked


def quoted(value: object) -> str:
    """Return a hint about a value in quotation marks, to follow its name; else nothing."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return "stands in quotation marks, which docker --env-file makes a part of the value"
    return ""


def sentence(message: str, value: object) -> str:
    """Return the message for a value, with the hint if it is quoted."""
    hint = quoted(value)
    return message + (f"; it {hint}" if hint else "")


def warn_of_quotes(given: Iterable[tuple[str, str, object]]) -> list[str]:
    """Return the quoted values among (name, source, value), which a rule may have let pass."""
    return [f"{name} {quoted(value)}." for name, _, value in given if quoted(value)]


def warnings_of(values: Mapping[str, Any]) -> Iterator[str]:
    """Return warnings about settings that work but are risky."""
    issuer = urlsplit(values["issuer"])
    local = values["bind"].is_loopback and Address(issuer.hostname or "", 0).is_loopback
    if issuer.scheme == "http" and not local:
        yield (
            "KEYOSK_ISSUER begins with http://. Passwords and tokens must not cross a network in "
            "the clear: set KEYOSK_TLS_CERTIFICATE and KEYOSK_TLS_KEY, or put a TLS proxy in "
            "front, and give its https:// URL."
        )
    if isinstance(values["bind"], UnixAddress) and UNIX not in values["trusted_proxies"]:
        yield ALL_ARE_ONE


#: The warning for a Unix socket without a trusted proxy that names its clients.
ALL_ARE_ONE: Final = (
    "KEYOSK_TRUSTED_PROXIES has no unix. All clients of the Unix socket count as one: wrong "
    "passwords of any slow down all, and API keys that are limited to networks are refused."
)


def secret_in(path: object, *, keep_mark: bool = False) -> str:
    """Return the secret in a file, without the white space and the byte order mark around it.

    ``keep_mark``: with its byte order mark, for a rule that knows what to do with it.

    Its permissions do not matter, because containers mount secrets readable by all (0444). The
    message does not repeat the path, because it may be a secret by mistake.
    """
    try:
        secret = Path(text_of(path)).read_bytes().decode().strip()
    except OSError as error:
        raise BadValue(f"cannot read the file: {error.strerror}") from None
    except ValueError:
        raise BadValue("the file must be UTF-8 text") from None
    secret = secret if keep_mark else whitespace.trim(secret)
    if not secret:
        raise BadValue("the file is empty")
    return secret


def hint(name: str, known: Collection[str]) -> str:
    """Return a suggestion for an unknown setting, to follow "is unknown"."""
    if _KUBERNETES.fullmatch(name):
        message = (
            "; Kubernetes sets it for a Service named keyosk, unless enableServiceLinks is false"
        )
        return (
            f"{message}. To choose the port, set KEYOSK_BIND" if name == "KEYOSK_PORT" else message
        )
    short = {each.removeprefix(_PREFIX).lower(): each for each in known}
    meant = name.removeprefix(_PREFIX).lower()
    meant = _SYNONYMS.get(meant, meant)
    near = difflib.get_close_matches(meant, short, n=1)
    return f"; did you mean {short[near[0]]}?" if near else ""
