"""Faults and warnings of settings that depend on one another.

``given`` has the names of the settings that the operator wrote. ``valid`` has the values that
passed their own rules; a setting that is in ``given`` only was already reported.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from keyosk.config import database_urls
from keyosk.config.addresses import Address, UnixAddress
from keyosk.config.database_urls import PostgresqlUrl
from keyosk.config.rules import UNIX
from keyosk.errors import Fault

#: All of them are needed, or none.
PKCS11: Final = ("pkcs11_module", "pkcs11_token", "pkcs11_pin")
#: The warning for a Unix socket without a trusted proxy that names its clients.
CLIENTS_ARE_ONE: Final = (
    "KEYOSK_TRUSTED_PROXIES has no unix. All clients of the Unix socket count as one: wrong "
    "passwords of any slow down all, and API keys that are limited to networks are refused."
)
_PREFIX: Final = "KEYOSK_"


def database_faults(given: Collection[str], valid: Mapping[str, Any]) -> Iterator[Fault]:
    """Return the faults of the settings for the database together."""
    url = valid.get("database_url")
    is_postgresql = url is not None and isinstance(database_urls.parse(url), PostgresqlUrl)
    if "secret_key" not in given and is_postgresql:
        yield Fault("KEYOSK_SECRET_KEY", "is required with PostgreSQL (openssl rand -base64 32)")
    if "database_schema" in valid and url is not None and not is_postgresql:
        yield Fault("KEYOSK_DATABASE_SCHEMA", "is for PostgreSQL only; SQLite has no schemas")
    has_threshold = "database_prepare_threshold" in given and "database_prepare_threshold" in valid
    if has_threshold and url is not None and not is_postgresql:
        yield Fault("KEYOSK_DATABASE_PREPARE_THRESHOLD", "is for PostgreSQL only")


def tls_faults(given: Collection[str], valid: Mapping[str, Any]) -> Iterator[Fault]:
    """Return the faults of the settings for TLS together."""
    if isinstance(valid.get("bind"), UnixAddress) and "tls_certificate" in valid:
        yield Fault("KEYOSK_TLS_CERTIFICATE", "is for TCP; a Unix socket as KEYOSK_BIND has no TLS")
    for name, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if name not in given and other in valid:
            yield Fault(_PREFIX + name.upper(), f"is required with {_PREFIX}{other.upper()}")


def pkcs11_faults(given: Collection[str], valid: Collection[str]) -> Iterator[Fault]:
    """Return the missing settings for PKCS#11, if some but not all are given."""
    if not any(name in valid for name in PKCS11):
        return
    for name in PKCS11:
        if name not in given:
            yield Fault(_PREFIX + name.upper(), "is required with the other settings for PKCS#11")


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
        yield CLIENTS_ARE_ONE
