"""A group whose commands are imported when they are used.

Most of the time of a command is imports, and each command needs few of them.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from keyosk.cli.groups import Group


class LazyGroup(Group):
    """A group of commands that are imported on demand.

    ``places``: "module:attribute" by name. ``equip``: called once with each command.
    """

    def __init__(
        self,
        *arguments: Any,
        places: Mapping[str, str],
        equip: Callable[[click.Command], None],
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._places = places
        self._equip = equip

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls it
        """Return all names, in their order."""
        return sorted({*self._places, *self.commands})

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - as click calls it
        cmd_name: str,
    ) -> click.Command | None:
        """Return the command of a name; ``None`` if there is none."""
        if cmd_name not in self.commands and cmd_name in self._places:
            module, _, attribute = self._places[cmd_name].partition(":")
            command = getattr(importlib.import_module(module), attribute)
            self._equip(command)
            self.add_command(command, cmd_name)
        return self.commands.get(cmd_name)
