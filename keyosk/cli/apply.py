"""keyosk apply."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import click

from keyosk.apply.manifest import Action
from keyosk.cli import documents, shared
from keyosk.errors import Fault, Invalid
from keyosk.model import OPERATOR
from keyosk.web import bodies
from keyosk.web.declared import DeclarationSchema, declaration_of, shape_of_step

#: What ``--plan`` exits with when there is something to do.
_DIFFERENCE: Final = 3
_SIGNS: Final[Mapping[str, str]] = {Action.CREATE: "+", Action.CHANGE: "~", Action.DELETE: "-"}
_DONE: Final[Mapping[str, str]] = {
    Action.CREATE: "created",
    Action.CHANGE: "changed",
    Action.DELETE: "deleted",
}


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--plan", is_flag=True, help="Only say what would be done; exit code 3 if anything.")
@click.option("--force", is_flag=True, help="Also delete what is in use beyond this file.")
@click.option("--take-over", is_flag=True, help="Also what another owner's file made.")
@shared.as_json
def apply(file: BinaryIO, *, plan: bool, force: bool, take_over: bool, as_json: bool) -> None:
    """Make services, roles, accounts and grants what FILE (YAML; - for standard input) says.

    All of it happens or nothing. What the file does not name stays as it is.
    """
    name = "standard input" if file.name in ("-", "<stdin>") else file.name
    document = documents.parse(file.read(), name=name)
    if not isinstance(document.value, dict):
        raise Invalid.field(name, "must have members: services, roles, accounts or grants")
    try:
        declaration = declaration_of(bodies.checked(DeclarationSchema(), document.value))
        with shared.installation() as installation:
            declarations = installation.declarations
            run = declarations.plan if plan else declarations.apply
            steps = run(OPERATOR, declaration, force=force, take_over=take_over)
    except Invalid as error:
        raise Invalid(_placed(name, document, fault) for fault in error.faults) from None
    shapes = [shape_of_step(step) for step in steps]
    if as_json:
        shared.show_json({"changes": shapes})
    else:
        _show(shapes, planned=plan)
    if plan and shapes:
        sys.exit(_DIFFERENCE)


def _placed(name: str, document: documents.Document, fault: Fault) -> Fault:
    line = document.line_of(fault.field)
    return Fault(f"{name}{'' if line is None else f':{line}'}: {fault.field}", fault.message)


def _show(shapes: Sequence[Mapping[str, Any]], *, planned: bool) -> None:
    if not shapes:
        click.echo("Nothing to do.")
        return
    for shape in shapes:
        click.echo(f"{_SIGNS[shape['action']]} {shape['kind']} {shape['name']}")
        if shape["action"] != Action.DELETE:
            _show_fields(shape)
    counts = [(sum(shape["action"] == action for shape in shapes), action) for action in Action]
    parts = [
        f"{count} to {action}" if planned else f"{count} {_DONE[action]}"
        for count, action in counts
        if count
    ]
    click.echo(", ".join(parts) + ".")


def _show_fields(shape: Mapping[str, Any]) -> None:
    before, after = shape["before"], shape["after"]
    for name, value in after.items():
        old = f"{_text(before[name])} -> " if name in before else ""
        click.echo(f"    {name}: {old}{_text(value)}")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
