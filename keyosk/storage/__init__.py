"""The floor that knows the database: tables, migrations, and one store a noun.

Owns SQL, connections, transactions, and the translation of database errors into ``keyosk.errors``.
Stores take and give plain values of ``keyosk.model``. It decides nothing: whether something may
happen is settled above, except for uniqueness, which only the database can settle.

SQLite and PostgreSQL run the same code; where they must differ, ``database`` says how.
"""

import logging

# Commands print what went wrong themselves; a server has its own handler.
logging.getLogger(__name__).addHandler(logging.NullHandler())
