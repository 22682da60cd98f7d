"""The rule for the value of each setting, and how secret values are shown.

A rule converts a value from TOML or the environment to that of ``Config``, or raises ``BadValue``
with what the value must be. ``whole``, ``string`` and ``one_of`` make rules.

SECURITY: no sentence here repeats a value that was given. It could be a secret, even in a setting
that is none.
"""

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from keyosk import networks, whitespace
from keyosk.config import addresses, database_urls
from keyosk.config.addresses import Address, UnixAddress

_ADDRESS: Final = r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]*)):(?P<port>[0-9]{1,5})"
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")  # RFC 3986
_LONGEST_SOCKET_PATH: Final = 107  # bytes; the size of sockaddr_un on Linux
_LONGEST_IDENTIFIER: Final = 63  # PostgreSQL truncates longer ones


OFF: Final = "off"
#: Stands for all clients of a Unix socket among the trusted proxies.
UNIX: Final = "unix"
AUTO: Final = "auto"
Rule = Callable[[object], Any]


class BadValue(ValueError):
    """A value breaks the rule of its setting; the message says what it must be."""


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
    return _unix(text) if text.startswith(addresses.UNIX_SCHEME) else tcp(text)


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(addresses.UNIX_SCHEME)
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
        address := addresses.address_of(
            host, int(match["port"]), is_bracketed=match["ipv6"] is not None
        )
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
    url = addresses.web_url(text)
    # Clients resolve segments of dots, which would change the path.
    if url is None or not all(
        _SEGMENT.fullmatch(segment) and unquote(segment) not in (".", "..")
        for segment in url.path.split("/")[1:]
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
        url = addresses.web_url(item)
        if url is None or item != addresses.origin_of(url):
            raise BadValue(
                "must be origins as browsers send them, such as https://app.example.org: lower "
                "case, without path, and without the port that is usual"
            )
    return tuple(items)


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


def hide(_: object) -> str:
    """Return a mask in place of a secret."""
    return "***"


def hide_password(url: object) -> str:
    """Return a database URL without its password and its parameters."""
    return database_urls.parse(str(url)).masked
