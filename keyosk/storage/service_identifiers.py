"""The services of names and audiences, which share one namespace."""

import json
from collections import defaultdict
from typing import Final

import peewee

from keyosk.errors import Conflict
from keyosk.model import Service, namespace_key
from keyosk.storage import tables
from keyosk.storage.database import Database

_SHARED: Final = "Another service already has the name or audience {}, or a similar one."


def check(database: Database, service: Service) -> None:
    """Raise ``Conflict`` if another service has one of its identifiers, with the field.

    ``claim`` finds concurrent conflicts.
    """
    table = tables.ServiceIdentifier
    identifiers = _keys(service)
    others = table.select().where(table.key.in_(list(identifiers)) & (table.service != service.id))
    taken = {row["key"] for row in database.rows(others)}
    for key, (field, text) in identifiers.items():
        if key in taken:
            raise Conflict(field, _SHARED.format(text))


def claim(database: Database, service: Service) -> None:
    """Store the name and audiences of the service. Raises ``Conflict``."""
    table = tables.ServiceIdentifier
    database.write(table.delete().where(table.service == service.id))
    # In a fixed order, so that two transactions never deadlock.
    rows = [{"key": key, "service": service.id} for key in sorted(_keys(service))]
    try:
        database.insert(table, rows)
    except peewee.IntegrityError as error:
        raise Conflict("audience", "Another service has just got one of these names.") from error


def column(service: Service) -> str | None:
    """Return the further audiences of a service as they are stored."""
    return json.dumps(list(service.audiences)) if service.audiences else None


def shared(database: Database) -> list[str]:
    """Return names and audiences of several services, which older versions allowed."""
    table = tables.Service
    users: dict[str, list[str]] = defaultdict(list)
    for row in database.rows(table.select().order_by(table.id)):
        texts = (row["name"], row["audience"], *json.loads(row["audiences"] or "[]"))
        for key in dict.fromkeys(map(namespace_key, texts)):
            users[key].append(row["name"])
    return [
        f"{key} is the name or an audience of more than one service: {', '.join(names)}"
        for key, names in sorted(users.items())
        if len(names) > 1
    ]


def _keys(service: Service) -> dict[str, tuple[str, str]]:
    """Return the service's keys in the namespace, each with its field and its spelling there."""
    keys: dict[str, tuple[str, str]] = {}
    for field, text in (*service.identifiers, ("name", service.id)):
        keys.setdefault(namespace_key(text), (field, text))
    return keys
