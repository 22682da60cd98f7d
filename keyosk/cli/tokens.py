"""keyosk token."""

import json
import sys

import click

from keyosk import whitespace
from keyosk.cli import shared
from keyosk.errors import BadToken
from keyosk.model import OPERATOR
from keyosk.permissions import entitlements
from keyosk.tokens.explanation import SENTENCES, shape
from keyosk.tokens.issuing import TokenRequest

_audience = click.option(
    "--audience", "audiences", multiple=True, help="A service's name or audience; repeatable."
)
_scope = click.option(
    "--scope", help="Scopes, separated by spaces; all that are held unless given."
)
_lifetime = click.option("--lifetime", type=click.IntRange(min=1), metavar="SECONDS")
_api_key = click.option("--api-key", metavar="ID", help="As by this API key, not by password.")


@click.group()
def token() -> None:
    """Make tokens, look into them, and explain them."""


@token.command("issue")
@click.argument("username")
@_api_key
@_audience
@_scope
@_lifetime
def issue_token(
    username: str,
    api_key: str | None,
    audiences: tuple[str, ...],
    scope: str | None,
    lifetime: int | None,
) -> None:
    """Print a token of the account, made without its secret; the audit log tells of it."""
    with shared.installation() as installation:
        account = installation.accounts.get(username)
        login = installation.authentication.preview_login(account.id, api_key, to_issue=True)
        token_request = _requested(scope, audiences, lifetime)
        issued = installation.issuing.by_operator(OPERATOR, login, token_request)
    click.echo(issued.token.text)


@token.command("inspect")
def inspect_token() -> None:
    """Read a token from standard input; print what it says and whether it is good now."""
    text = whitespace.trim(sys.stdin.readline())
    with shared.installation() as installation:
        try:
            header, claims = installation.tokens.unverified(text)
        except BadToken:
            raise click.ClickException("This is not a token.") from None
        fault = installation.inspection.fault(text)
    # SECURITY: anybody may have written it: ASCII cannot steer a terminal.
    click.echo(json.dumps({"header": header, "claims": claims}, indent=2))
    click.echo("It is valid now." if fault is None else f"It is not valid: {fault}", err=True)
    sys.exit(0 if fault is None else 1)


@token.command("explain")
@click.argument("username")
@_api_key
@_audience
@_scope
@_lifetime
@shared.as_json
def explain_token(
    username: str,
    api_key: str | None,
    audiences: tuple[str, ...],
    scope: str | None,
    lifetime: int | None,
    *,
    as_json: bool,
) -> None:
    """Tell which token the account would get, and why it lacks what it lacks."""
    with shared.installation() as installation:
        explanation = installation.explaining.explain(
            username, _requested(scope, audiences, lifetime), api_key_id=api_key
        )
    found = shape(explanation)
    if as_json:
        shared.show_json(found)
        return
    if explanation.preview is None:
        why = explanation.reason
        sentence = found["error_description"] if why is None else SENTENCES[why]
        click.echo(f"No token: {found['error']}. {sentence}")
    else:
        click.echo(f"A token of {found['size']} bytes with these claims:")
        click.echo(json.dumps(found["claims"], ensure_ascii=False, indent=2))
    for each in found["scopes"]:
        click.echo(f"has   {each['name']}  through {each['through']}")
    for each in found["missing"]:
        click.echo(f"lacks {each['name']}  {each['reason']}: {each['message']}")


def _requested(scope: str | None, audiences: tuple[str, ...], lifetime: int | None) -> TokenRequest:
    scopes = None if scope is None else entitlements.parse_scope(scope)
    return TokenRequest(scopes, audiences, lifetime)
