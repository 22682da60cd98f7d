"""An index of the audit log's rows by who did what, for lists with both filters.

As one text, and not as two columns: PostgreSQL then knows how many rows have both, as it keeps
statistics of it. Of two columns it believes that many have both if many have each.
"""

from peewee import Database
from playhouse.migrate import SchemaMigrator


def up(_migrator: SchemaMigrator, db: Database) -> None:
    """Make it."""
    db.execute_sql(
        "CREATE INDEX audit_row_action_of ON audit_row ((action || ' ' || actor_name), sequence)"
    )


def down(_migrator: SchemaMigrator, db: Database) -> None:
    """Take it away."""
    db.execute_sql("DROP INDEX audit_row_action_of")
