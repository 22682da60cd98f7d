"""Groups of commands: one line about each command, and the right word for a wrong one."""

import difflib
import re
from collections.abc import Mapping
from typing import Final

import click

#: The commands for words that other systems use.
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    # What Keyosk keeps.
    "client": ("account",),
    "identity": ("account",),
    "machine": ("account",),
    "person": ("account",),
    "principal": ("account",),
    "service-account": ("account",),
    "user": ("account",),
    "access-key": ("api-key",),
    "credential": ("api-key",),
    "key": ("api-key", "signing-key"),
    "pat": ("api-key",),
    "secret": ("api-key",),
    "api": ("service",),
    "app": ("service",),
    "application": ("service",),
    "audience": ("service",),
    "resource-server": ("service",),
    "scope": ("service", "grant"),
    "group": ("role",),
    "permission": ("grant", "role"),
    "policy": ("role", "grant"),
    "idp": ("issuer",),
    "provider": ("issuer",),
    "jwk": ("signing-key",),
    "certificate": ("signing-key",),
    # What one does with it.
    "add": ("create", "add"),
    "new": ("create",),
    "register": ("create",),
    "ls": ("list",),
    "describe": ("show",),
    "get": ("show", "list"),
    "view": ("show",),
    "edit": ("set",),
    "modify": ("set",),
    "patch": ("set",),
    "rename": ("set",),
    "update": ("set",),
    "passwd": ("password",),
    "reset-password": ("password",),
    "block": ("disable",),
    "deactivate": ("disable",),
    "lock": ("disable",),
    "suspend": ("disable",),
    "activate": ("enable",),
    "unlock": ("enable",),
    "remove": ("delete", "remove"),
    "rm": ("delete", "remove"),
    "invalidate": ("revoke-tokens", "revoke"),
    "logout": ("revoke-tokens",),
    "revoke": ("revoke-tokens", "disable", "delete", "remove", "account", "session"),
    "roll": ("rotate",),
    "decode": ("inspect",),
    "introspect": ("inspect", "token"),
    "verify": ("inspect", "verify-service"),
    "generate": ("issue", "create"),
    # The machine.
    "backup": ("database",),
    "db": ("database",),
    "migrate": ("upgrade", "database"),
    "restore": ("database",),
    "upgrade": ("database",),
    "event": ("audit",),
    "log": ("audit",),
    "init": ("serve",),
    "run": ("serve",),
    "server": ("serve",),
    "start": ("serve",),
    "check": ("doctor",),
    "diagnose": ("doctor",),
    "status": ("doctor", "health"),
    "plan": ("apply",),
    "rotate": ("signing-key", "api-key"),
    "export": ("account",),
    "import": ("account",),
}
#: What ends the first clause of a description.
_CLAUSE: Final = re.compile(r"[.;:](?=\s|$)")


class Group(click.Group):
    """A group of commands."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Register a command, with the first clause of its description for lists of commands."""
        if cmd.short_help is None and cmd.help:
            paragraph = " ".join(cmd.help.partition("\n\n")[0].split())
            cmd.short_help = _CLAUSE.split(paragraph, maxsplit=1)[0] + "."
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the requested command; for another name, suggest what may be meant."""
        name = args[0]
        is_known = name.startswith("-") or self.get_command(ctx, name) is not None
        if not is_known and not ctx.resilient_parsing:  # which completion is
            meant = " or ".join(map(repr, self._meant(ctx, name)))
            ctx.fail(f"No such command {name!r}.{f' Did you mean {meant}?' if meant else ''}")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, name: str) -> list[str]:
        """Return the options and commands that a name may mean."""
        if name in ("help", "version") and any(f"--{name}" in p.opts for p in self.get_params(ctx)):
            return [f"--{name}"]
        commands = self.list_commands(ctx)
        word = name.lower().replace("_", "-")
        words = next((WORDS[w] for w in (word, word.removesuffix("s")) if w in WORDS), ())
        return [each for each in words if each in commands] or difflib.get_close_matches(
            word, commands, n=1
        )
