"""keyosk doctor."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from keyosk.checks import WRONG, Check
from keyosk.cli import global_options, shared


@click.command()
@click.option(
    "--backups",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder of your backups; /var/backups/keyosk by default, if there is one.",
)
@shared.as_json
def doctor(backups: Path | None, *, as_json: bool) -> None:
    """Look for what is wrong with this Keyosk, and say what to do; exit code 1 if anything is.

    Looks at settings, database, backups, files, keys, clocks, proxies, TLS, and workloads' issuers
    and rules, and calls Keyosk's issuer as others see it. With --server, only at what can be seen
    from here.
    """
    server = global_options.server()
    if server is None:
        from keyosk.cli import diagnosis  # noqa: PLC0415 - it is all of Keyosk

        checks = diagnosis.examine(backups)
    else:
        from keyosk.cli import diagnosis_of_server  # noqa: PLC0415 - it is httpx2

        checks = diagnosis_of_server.examine(server)
    is_well = not any(check.status == WRONG for check in checks)
    if as_json:
        shared.show_json({"ok": is_well, "checks": [check.shape for check in checks]})
    else:
        _show(checks)
    if not is_well:
        sys.exit(1)


def _show(checks: Sequence[Check]) -> None:
    width = max(len(check.part) for check in checks)
    for check in checks:
        click.echo(
            shared.printable(f"{check.status:<11}  {check.part:<{width}}  {check.found}").rstrip()
        )
        if check.cure:
            click.echo(shared.printable(f"{'':<11}  {'':<{width}}  -> {check.cure}"))
