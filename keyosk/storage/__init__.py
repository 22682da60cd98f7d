"""The layer that knows the database: tables, migrations, and one store per noun.

Owns SQL, connections, transactions, and the translation of database errors into ``keyosk.errors``.
Stores accept and return plain values of ``keyosk.model``. It makes no decisions: the layers above
decide if something is allowed, except for uniqueness, which only the database can decide.

SQLite and PostgreSQL run the same code; where they must differ, ``database`` says how.
"""

import logging
import sys

if "peewee" not in sys.modules and "psycopg" not in sys.modules:
    # peewee and playhouse import each driver that they find. psycopg takes 11 MiB of each process
    # and a tenth of a start, and only ``postgresql`` needs it, which connects the two.
    sys.modules["psycopg"] = None  # type: ignore[assignment]  # importing it fails
    try:
        import playhouse.migrations  # noqa: F401
    finally:
        del sys.modules["psycopg"]

# Commands print errors themselves, and a server has its own handler.
logging.getLogger(__name__).addHandler(logging.NullHandler())
