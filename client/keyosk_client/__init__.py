"""Verify Keyosk's tokens in a service, and get tokens for a program.

A token passes ``token_rules`` (form, signature and claims; RFC 9068, RFC 8725), with a key from
``issuer``, which also knows the revocations. ``verifier`` has a shell for threads and one for
asyncio around it. ``token_source`` gets tokens (RFC 6749 section 4.4, RFC 8693), also by what
``workload`` finds on the platform (RFC 7523). ``challenges`` says what to answer when a token is
refused (RFC 6750), and there is a module for each framework.
This package never imports the server's code.
"""

from keyosk_client.errors import (
    InsufficientScope,
    InvalidToken,
    KeyoskError,
    KeysUnavailable,
    LoginRefused,
    NoToken,
    RevocationsUnavailable,
    TokenUnavailable,
    Unavailable,
)
from keyosk_client.token import Token
from keyosk_client.token_source import AsyncTokenSource, TokenSource
from keyosk_client.verifier import AsyncVerifier, Verifier
from keyosk_client.version import __version__

__all__ = [
    "AsyncTokenSource",
    "AsyncVerifier",
    "InsufficientScope",
    "InvalidToken",
    "KeyoskError",
    "KeysUnavailable",
    "LoginRefused",
    "NoToken",
    "RevocationsUnavailable",
    "Token",
    "TokenSource",
    "TokenUnavailable",
    "Unavailable",
    "Verifier",
    "__version__",
]
