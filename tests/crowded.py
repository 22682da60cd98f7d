"""An installation with long lists and long names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from installed import installed
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Kind, Scope
from people import PASSWORD

#: As many rows as a list of the API shows at most.
ROWS: Final = 200
LONG: Final = "the-quarterly-reporting-and-reconciliation-of-all-branches"
TITLE: Final = (
    "The quarterly reporting and reconciliation of all branches, subsidiaries and partners"
)
URL: Final = (
    "https://reports.internal.example.org/quarterly/reconciliation/v2/branches-and-partners"
)
#: A person without any right, whose password is ``people.PASSWORD``.
PLAIN: Final = "henrietta.wolfeschlegelsteinhausenbergerdorff@reconciliation.branches.example.org"


def fill(keyosk: Installation) -> None:
    """Fill all lists."""
    scopes = [
        Scope(f"{LONG}:{what}-{number}", TITLE)
        for number in range(ROWS // 2)
        for what in ("read", "write")
    ]
    keyosk.services.create(
        OPERATOR, name=LONG, audience=URL, title=TITLE, description=TITLE * 4, contact=URL,
        scopes=scopes, refresh_allowed=True,
    )  # fmt: skip
    names = [scope.name for scope in scopes]
    for number in range(ROWS):
        name = f"{number}-{LONG}"
        keyosk.services.create(OPERATOR, name=name, audience=f"{URL}/{number}", title=TITLE)
        keyosk.roles.create(OPERATOR, name=name, description=TITLE, scopes=names[: number % 60 + 1])
    plain = keyosk.grants.create_account(
        OPERATOR,
        [Grant(scope=name) for name in names[:59]]
        + [Grant(scope=names[59], until=4_000_000_000)]
        + [Grant(role=f"{n}-{LONG}") for n in range(60)],
        username=PLAIN, display_name=TITLE, password=PASSWORD,
    )  # fmt: skip
    for number in range(ROWS):
        account = keyosk.grants.create_account(
            OPERATOR,
            [Grant(scope=names[0]), Grant(role=f"0-{LONG}")],
            username=f"{number}.{PLAIN}",
            display_name=TITLE,
        )
        keyosk.api_keys.create(
            OPERATOR,
            plain.id,
            name=f"{TITLE} {number}",
            scopes=names[:20],
            networks=["2001:db8:1234:5678::/64", "192.0.2.0/24"],
        )
        keyosk.accounts.revoke_tokens(OPERATOR, account.id)
    keyosk.grants.create_account(
        OPERATOR, [Grant(scope=names[0])], username=f"of-{LONG}", kind=Kind.MACHINE
    )
    for number in range(ROWS):
        keyosk.issuers.create(
            OPERATOR, name=f"{number}-{LONG}", preset="github", audience=f"{URL}/{number}",
            description=TITLE,
        )  # fmt: skip
        keyosk.workload_rules.create(
            OPERATOR,
            f"0-{LONG}",
            name=f"{number}-{LONG}",
            claims={"repository_id": tuple(map(str, range(10))), "ref": (f"refs/heads/{LONG}/*",)},
            account=f"of-{LONG}",
            scopes=tuple(names[:10]),
            description=TITLE,
        )
    with keyosk.database.transaction():  # as if all of it had been granted long ago
        for column in ('"grant" SET granted_at', "role_scope SET added_at"):
            keyosk.database.raw.execute_sql(f"UPDATE {column} = 1")


@contextmanager
def crowded(url: str) -> Iterator[Installation]:
    """Open a database that is set up, and fill it."""
    with installed(url) as keyosk:
        fill(keyosk)
        yield keyosk
