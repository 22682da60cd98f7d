"""The service that a name or audience means: names and audiences are one namespace."""

import json
from collections import defaultdict
from typing import Final

import peewee

from keyosk.errors import Conflict
from keyosk.model import Service, namespace_key
from keyosk.storage import tables
from keyosk.storage.database import Database

_SHARED: Final = "Another service already has this name or audience, or a similar one."


def check(database: Database, service: Service) -> None:
    """Raise ``Conflict`` if another service has one of its identifiers, with the field.

    Who comes to the same at this moment is found by ``claim``.
    """
    table = tables.ServiceIdentifier
    wanted = _keys(service)
    others = table.select().where(table.key.in_(list(wanted)) & (table.service != service.id))
    taken = {row["key"] for row in database.rows(others)}
    for key, field in wanted.items():
        if key in taken:
            raise Conflict(field, _SHARED)


def claim(database: Database, service: Service) -> None:
    """Make the service the one that its name and audiences mean. Raises ``Conflict``."""
    table = tables.ServiceIdentifier
    database.write(table.delete().where(table.service == service.id))
    # In one order everywhere, so that two never wait for each other in a circle.
    rows = [{"key": key, "service": service.id} for key in sorted(_keys(service))]
    try:
        database.insert(table, rows)
    except peewee.IntegrityError as error:
        raise Conflict("audience", _SHARED) from error


def column(service: Service) -> str | None:
    """Return the further audiences of a service as they are stored."""
    return json.dumps(list(service.audiences)) if service.audiences else None


def shared(database: Database) -> list[str]:
    """Return the names and audiences of more than one service, from before this was refused."""
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


def _keys(service: Service) -> dict[str, str]:
    """Return the service's keys in the namespace, each with its field."""
    keys: dict[str, str] = {}
    for field, text in (*service.identifiers, ("name", service.id)):
        keys.setdefault(namespace_key(text), field)
    return keys
