"""keyosk token."""

import json
import sys

import click

from keyosk import small_files, whitespace
from keyosk.cli import global_options, names, shared
from keyosk.cli.groups import Group
from keyosk.cli.verify_service import bad_token_kit

_audience = click.option(
    "--audience", "audiences", multiple=True, help="A service's name or audience; repeatable."
)
_scope = click.option(
    "--scope", help="Scopes, separated by spaces; all that the account holds by default."
)
_lifetime = click.option(
    "--lifetime",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="How long it is valid; the longest that is allowed by default.",
)
_api_key = click.option(
    "--api-key", metavar="ID", help="For a login by this API key instead of the password."
)


@click.group(cls=Group)
def token() -> None:
    """Issue, inspect and explain tokens."""


@token.command("issue")
@click.argument("username", shell_complete=names.accounts)
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
    """Issue a token for the account without its secret; the audit log records it."""
    global_options.require_machine()
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    click.echo(
        machine.issue_token(username, api_key, scope=scope, audiences=audiences, lifetime=lifetime)
    )


@token.command("inspect")
def inspect_token() -> None:
    """Print the claims of a token from standard input, and whether it is valid now."""
    global_options.require_machine()
    text = whitespace.trim(sys.stdin.readline(small_files.MOST))
    # As a header, too: format=header gives tokens so.
    text = text.removeprefix("Authorization: ").removeprefix("Bearer ")
    from keyosk.cli import machine  # noqa: PLC0415 - it is all of Keyosk

    header, claims, fault = machine.inspect_token(text)
    # SECURITY: anyone may have written it; ASCII JSON cannot control a terminal.
    click.echo(json.dumps({"header": header, "claims": claims}, indent=2))
    click.echo("It is valid now." if fault is None else f"It is not valid: {fault}", err=True)
    sys.exit(0 if fault is None else 1)


@token.command("explain")
@click.argument("username", shell_complete=names.accounts)
@_api_key
@click.option("--workload", is_flag=True, help="For a login by the token of a trusted issuer.")
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
    workload: bool,
    as_json: bool,
) -> None:
    """Show which token the account would get, and why scopes are missing from it."""
    if workload and api_key is not None:
        raise click.UsageError("Give --api-key or --workload, not both.")
    body = {
        "account": username,
        "audience": audiences,
        **shared.given(api_key=api_key, lifetime=lifetime),
        **({} if api_key is None else {"credential": "api_key"}),
        **({"credential": "workload"} if workload else {}),
        **({} if scope is None else {"scope": scope}),
    }
    with shared.client() as client:
        explanation = client.post("auth", "explain", body=body).body
    if as_json:
        shared.show_json(explanation)
        return
    lines = []
    if explanation.get("claims") is None:
        why = explanation.get("message", explanation.get("error_description"))
        lines.append(f"No token: {explanation.get('error')}. {why}")
    else:
        lines.append(f"A token of {explanation.get('size')} bytes with these claims:")
        lines += json.dumps(explanation["claims"], ensure_ascii=False, indent=2).splitlines()
    for each in explanation.get("scopes", ()):
        lines.append(f"has   {each.get('name')}  through {each.get('through')}")
    for each in explanation.get("missing", ()):
        lines.append(f"lacks {each.get('name')}  {each.get('reason')}: {each.get('message')}")
    for line in lines:
        click.echo(shared.printable(line))
    if api_key is None and explanation.get("reason") == "no_password":
        click.echo(
            shared.printable(
                f"For a login by API key, add --api-key ID; the ids: keyosk api-key list {username}"
            ),
            err=True,
        )


token.add_command(bad_token_kit)
