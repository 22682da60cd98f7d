"""The address of the client, from the connection or from headers of trusted proxies."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from keyosk import networks

#: In place of the address of a client of a Unix socket, here and in the settings.
UNIX: Final = "unix"
#: In place of an address that cannot be read. No network contains it.
UNKNOWN: Final = "unknown"
#: How a dual-stack socket writes the address of an IPv4 client begins.
_MAPPED: Final = "::ffff:"
_WARN_EVERY: Final = 3600  # seconds
_MOST_COMMAS: Final = 20  # in one element; no proxy writes more
_PORT: Final = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_IPV4: Final = re.compile(r"([0-9.]+)" + _PORT, re.ASCII)
_IPV6: Final = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%[^\[\]\s]*)?\]" + _PORT, re.ASCII)
_BARE_IPV6: Final = re.compile(r"([0-9A-Fa-f:.]+)(?:%[^\[\]\s]*)?", re.ASCII)
_OBFUSCATED: Final = re.compile(r"(_[A-Za-z0-9._-]{1,40})" + _PORT, re.ASCII)
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# More than a token, as some proxies write a port or brackets without quotation marks.
_PAIR: Final = rf'({_NAME})=([^\s";,=]+|"(?:[^"\\]|\\.)*")'
_ELEMENT: Final = re.compile(rf"[ \t]*{_PAIR}(?:[ \t]*;[ \t]*(?:{_PAIR})?)*[ \t]*")
_PAIRS: Final = re.compile(_PAIR)

_log = logging.getLogger(__name__)


class Source:
    """Finds the client of a request behind the trusted proxies."""

    def __init__(
        self,
        trusted: Sequence[networks.Network | str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trusted = [each for each in trusted if not isinstance(each, str)]
        self._trusts_unix = UNIX in trusted
        self._clock = clock
        self._warned = -float(_WARN_EVERY)

    def of(self, environ: Mapping[str, Any]) -> str | None:
        """Return the address of the client; ``environ`` is that of WSGI (PEP 3333).

        SECURITY: a header counts only as far as trusted proxies wrote it. It is read from the
        right, where each proxy appends its peer, and the first address that is not a trusted proxy
        is the client; the client may have made up everything to the left of it. If a trusted proxy
        wrote something that is not an address, or two headers that differ, the client is
        ``UNKNOWN``: the proxy's own address would let it use keys that are limited to that network.
        """
        peer: str | None = environ.get("REMOTE_ADDR")
        if peer == "":  # set by the server: a TCP connection always has an address
            peer = UNIX
        elif peer is not None and peer.startswith(_MAPPED):
            peer = str(networks.address(peer))
        if peer is None or not self._trusts(peer):
            return peer
        clients = [
            self._client(peer, hops)
            for name, read in (("X_FORWARDED_FOR", _x_forwarded_for), ("FORWARDED", _forwarded))
            if (hops := read(environ.get(f"HTTP_{name}", ""))) is not None
        ]
        if len(set(clients)) < 2:
            client = clients[0] if clients else peer
        else:
            # It is unknown which of them the proxy wrote, but attempts are still distinguished.
            client = _unknown(clients[0].removeprefix(f"{UNKNOWN}/"))
        if client.startswith(UNKNOWN):
            self._warn(peer)
        return client

    def _client(self, peer: str, hops: Iterator[str]) -> str:
        client = peer
        for hop in hops:
            address = _read(hop)
            if address is None:
                hidden = _OBFUSCATED.fullmatch(hop.strip('"'))
                return _unknown(hidden[1] if hidden else "")
            client = str(address)
            if not self._is_trusted(address):
                break
        return client

    def _trusts(self, peer: str) -> bool:
        if peer == UNIX:
            return self._trusts_unix
        return bool(self._trusted) and self._is_trusted(_read(peer))

    def _is_trusted(self, address: networks.Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def _warn(self, peer: str) -> None:
        now = self._clock()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            # The message quotes nothing of the header, which the client may have written.
            _log.warning(
                "the trusted proxy %s sends an address of its client that cannot be read, or both "
                "X-Forwarded-For and Forwarded with different ones: API keys that are limited to "
                "networks are refused there, and clients cannot be told apart",
                peer,
            )


def _unknown(detail: str) -> str:
    return f"{UNKNOWN}/{detail}" if detail and detail != UNKNOWN else UNKNOWN


def _read(text: str) -> networks.Address | None:
    """Parse the address in any form that proxies write: with a port, brackets, quotes or a zone."""
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    matched = _IPV4.fullmatch(text) or _IPV6.fullmatch(text) or _BARE_IPV6.fullmatch(text)
    if matched is None:
        return None
    try:
        return networks.address(matched[1])
    except ValueError:
        return None


def _x_forwarded_for(value: str) -> Iterator[str] | None:
    """Return the hops of ``X-Forwarded-For``, the last one first; ``None`` if there are none."""
    hops = [hop for hop in (part.strip(" \t") for part in reversed(value.split(","))) if hop]
    return iter(hops) if hops else None


def _forwarded(value: str) -> Iterator[str] | None:
    """Return the hops of ``Forwarded`` (RFC 7239); a hop without ``for`` is empty."""
    return _elements(value) if value.strip(", \t") else None


def _elements(value: str) -> Iterator[str]:
    # SECURITY: element by element from the right. Read from the left, a quotation mark that the
    # client never closes would swallow what the proxy appended.
    rest = value
    while rest.strip(", \t"):
        at = len(rest)
        for _ in range(_MOST_COMMAS):
            at = rest.rfind(",", 0, at)
            element = rest[at + 1 :]
            if not element.strip(" \t") or _ELEMENT.fullmatch(element):
                break
            if at < 0:
                yield ""
                return
        else:
            yield ""
            return
        rest = rest[: max(at, 0)]
        if element.strip(" \t"):
            yield _for(element)


def _for(element: str) -> str:
    values = [text for name, text in _PAIRS.findall(element) if name.lower() == "for"]
    if len(values) != 1:
        return ""
    return re.sub(r"\\(.)", r"\1", values[0][1:-1]) if values[0][0] == '"' else str(values[0])
