"""keyosk apply."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from keyosk.cli import shared
from keyosk.cli.refusals import Refused
from keyosk.errors import Invalid

if TYPE_CHECKING:
    from keyosk.cli.documents import Document

#: The exit code of ``--plan`` if there are changes.
_DIFFERENCE: Final = 3
_MIB: Final = 1024 * 1024
#: Bytes of a file. The API takes fewer, but comments and white space are not sent.
_LARGEST: Final = 16 * _MIB
_SIGNS: Final[Mapping[str, str]] = {"create": "+", "change": "~", "delete": "-"}
_DONE: Final[Mapping[str, str]] = {
    "create": "created",
    "change": "changed",
    "delete": "deleted",
}


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--plan", is_flag=True, help="Only print the changes; exit code 3 if there are any.")
@click.option("--force", is_flag=True, help="Also remove what is in use outside this file.")
@click.option("--take-over", is_flag=True, help="Also change what another owner's file created.")
@shared.as_json
def apply(file: BinaryIO, *, plan: bool, force: bool, take_over: bool, as_json: bool) -> None:
    """Bring services, roles, accounts, grants, issuers and rules into the state of FILE.

    FILE is YAML, JSON or TOML; - is standard input. Either all changes are made or none. What
    FILE does not name stays as it is.
    """
    from keyosk.cli import documents  # noqa: PLC0415 - PyYAML

    name = "standard input" if file.name in ("-", "<stdin>") else file.name
    content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise Invalid.field(name, f"has more than {_LARGEST // _MIB} MiB")
    document = documents.parse(content, name=name)
    if not isinstance(document.value, dict):
        raise Invalid.field(
            name, "must have members: services, roles, accounts, grants, issuers or rules"
        )
    flags = {"dry_run": plan, "force": force, "take_over": take_over}
    query = {word: "true" for word, is_asked in flags.items() if is_asked}
    try:
        with shared.client() as client:
            result = client.post("apply", body=document.value, **query).body
    except Refused as refused:
        if refused.code != "invalid":
            raise
        placed = [_placed(name, document, sentence) for sentence in refused.sentences]
        raise Refused(*placed, code=refused.code, status=refused.status) from None
    changes = result.get("changes")
    if not isinstance(changes, list):
        raise Refused("The server's response has no changes.")
    if as_json:
        shared.show_json({"changes": changes})
    else:
        _show(changes, planned=plan)
    if plan and changes:
        sys.exit(_DIFFERENCE)


def _placed(name: str, document: "Document", sentence: str) -> str:
    """Return a fault with its line in the document, and the path of the value."""
    line = document.line_of(sentence.partition(":")[0])
    return f"{name}{'' if line is None else f':{line}'}: {sentence}"


def _show(shapes: Sequence[Mapping[str, Any]], *, planned: bool) -> None:
    if not shapes:
        click.echo("Nothing to do.")
        return
    for shape in shapes:
        action = shape.get("action")
        sign = _SIGNS.get(str(action), "?")
        click.echo(shared.printable(f"{sign} {shape.get('kind')} {shape.get('name')}"))
        if action != "delete":
            _show_fields(shape)
    counts = [(sum(shape.get("action") == action for shape in shapes), action) for action in _SIGNS]
    parts = [
        f"{count} to {action}" if planned else f"{count} {_DONE[action]}"
        for count, action in counts
        if count
    ]
    click.echo(", ".join(parts) + ".")


def _show_fields(shape: Mapping[str, Any]) -> None:
    before, after = shape.get("before", {}), shape.get("after", {})
    for name, value in after.items():
        old = f"{_text(before[name])} -> " if name in before else ""
        click.echo(shared.printable(f"    {name}: {old}{_text(value)}"))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
