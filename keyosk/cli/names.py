"""Names that a shell completes: accounts, API keys, services, scopes, roles, sessions.

They come from the Keyosk of the command. A completion prints no errors and never waits: if the
names are not available at once, there are none.
"""

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from keyosk.cli import global_options, shared

if TYPE_CHECKING:
    from keyosk.cli.client import Client

#: Seconds for a server to respond.
_SECONDS: Final = 5
_MOST: Final = 100
#: SECURITY: names with other characters, which a shell might interpret, are not completed.
_NAME: Final = re.compile(r"[\w.@:+/-]+")
#: The name of the caller's own account.
_OWN: Final = "me"

_Found = Iterable[tuple[str, str | None]]
_Look = Callable[["Client", click.Context, str], _Found]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _completing(look: _Look) -> Complete:
    def complete(
        context: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        try:
            with context.scope(cleanup=False), _deadline(), shared.client() as client:
                fitting = (
                    CompletionItem(name, help=help_)
                    for name, help_ in look(client, context, incomplete)
                    if name.startswith(incomplete) and _NAME.fullmatch(name)
                )
                return [*islice(fitting, _MOST)]
        except Exception:  # noqa: BLE001 - the terminal is somebody's who is typing
            return []

    return complete


@contextmanager
def _deadline() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    if global_options.server() is None:  # the local database has time limits of its own
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _accounts(client: "Client", _: click.Context, incomplete: str) -> _Found:
    query = {"q": incomplete} if incomplete else {"sort": "username"}
    return [
        (str(account.get("username")), None)
        for account in client.items("accounts", most=_MOST, **query)
    ]


def _named(path: str) -> _Look:
    return lambda client, _, __: ((str(item.get("name")), None) for item in client.items(path))


def _scopes(client: "Client", _: click.Context, __: str) -> _Found:
    for service in client.items("services"):
        for scope in service.get("scopes", ()):
            yield str(scope.get("name")), None


def _grants(client: "Client", context: click.Context, incomplete: str) -> _Found:
    look = _named("roles") if context.params.get("as_role") else _scopes
    return look(client, context, incomplete)


def _api_keys(client: "Client", context: click.Context, _: str) -> _Found:
    owner = str(context.params.get("username") or _OWN)
    keys = list(client.items("accounts", owner, "api-keys"))
    counts = Counter(str(key.get("name")) for key in keys)
    for key in keys:
        name, key_id = str(key.get("name")), str(key.get("id"))
        # SECURITY: one that begins with a dash would be an option.
        is_enough = counts[name] == 1 and _NAME.fullmatch(name) and not name.startswith("-")
        yield name if is_enough else key_id, shared.printable(f"{name} {key.get('prefix')}")


def _sessions(client: "Client", context: click.Context, _: str) -> _Found:
    owner = str(context.params.get("username") or _OWN)
    for session in client.items("accounts", owner, "tokens"):
        yield str(session.get("id")), f"since {session.get('created_at')}"


def _signing_keys(client: "Client", _: click.Context, __: str) -> _Found:
    return ((str(k.get("kid")), str(k.get("state"))) for k in client.items("signing-keys"))


accounts: Final = _completing(_accounts)
services: Final = _completing(_named("services"))
roles: Final = _completing(_named("roles"))
scopes: Final = _completing(_scopes)
grants: Final = _completing(_grants)
api_keys: Final = _completing(_api_keys)
sessions: Final = _completing(_sessions)
signing_keys: Final = _completing(_signing_keys)
