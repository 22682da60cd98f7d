"""keyosk token."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from keyosk.cli import session
from keyosk.model import OPERATOR
from keyosk.on_behalf import Request
from keyosk.web.explain import shown

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def token() -> None:
    """Make a token, look at one, and see which one an account would get."""


def _request(command: _Command) -> _Command:
    """The options that say which token is meant."""
    for option in (
        click.option("--lifetime", type=click.IntRange(min=1), metavar="SECONDS"),
        click.option("--scope", metavar="SCOPES", help="Scopes, apart by spaces."),
        click.option("--audience", "audiences", multiple=True, help="A service; repeatable."),
        click.option("--api-key", "api_key_id", metavar="ID", help="By this key, not password."),
    ):
        command = option(command)
    return command


@token.command("issue")
@click.argument("username")
@_request
@session.as_json
def issue(
    username: str,
    api_key_id: str | None,
    audiences: tuple[str, ...],
    scope: str | None,
    lifetime: int | None,
    *,
    as_json: bool,
) -> None:
    """Make a token as the account would get it, and print it; the audit log tells of it."""
    request = Request(api_key_id, audiences, scope, lifetime)
    with session.installation() as installation:
        made = installation.on_behalf.issue(OPERATOR, username, request)
    if as_json:
        session.show_json(
            {
                "access_token": made.text,
                "token_type": "Bearer",
                "expires_in": made.expires_in,
                "scope": made.scope,
            }
        )
    else:
        click.echo(made.text)


@token.command("inspect")
@session.as_json
def inspect(*, as_json: bool) -> None:
    """Read a token from standard input; print what it says, and whether it is good now."""
    text = sys.stdin.readline().strip()
    with session.installation() as installation:
        reading = installation.tokens.read(text)
        active = installation.inspection.inspect(OPERATOR, text) is not None
        expires = reading.claims.get("exp")
        expired = isinstance(expires, int) and expires <= installation.clock()
    if active:
        verdict = "active"
    elif reading.is_valid:
        verdict = "revoked"  # or its account, API key or service is off or gone: the same to it
    else:
        verdict = "expired" if expired else "not_valid"
    if as_json:
        session.show_json({"header": reading.header, "claims": reading.claims, "verdict": verdict})
        return
    # SECURITY: anybody may have written the token: nothing of it goes to the terminal as it is.
    said = {**reading.header, **reading.claims}
    shape = {json.dumps(name)[1:-1]: json.dumps(value) for name, value in said.items()}
    session.show_object({**shape, "verdict": verdict}, as_json=False)


@token.command("explain")
@click.argument("username")
@_request
@session.as_json
def explain(
    username: str,
    api_key_id: str | None,
    audiences: tuple[str, ...],
    scope: str | None,
    lifetime: int | None,
    *,
    as_json: bool,
) -> None:
    """Tell which token the account would get, and why not more. Makes none."""
    request = Request(api_key_id, audiences, scope, lifetime)
    with session.installation() as installation:
        explanation = shown(installation.on_behalf.explain(OPERATOR, username, request))
    if as_json:
        session.show_json(explanation)
        return
    session.show_object(_summary(explanation), as_json=False)
    for title, columns in (
        ("scopes", ("name", "through", "until")),
        ("missing", ("name", "reason", "message")),
    ):
        if explanation[title]:
            click.echo(f"\n{title}:")
            session.show_list(explanation[title], columns, as_json=False)


def _summary(explanation: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("scopes", "missing", "claims")
    found = {name: value for name, value in explanation.items() if name not in lists}
    return {**found, **(explanation["claims"] or {})}
