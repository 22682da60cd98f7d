"""Refresh sessions."""

import json
from collections.abc import Mapping
from typing import Any, Final

from keyosk.model import ListQuery, Session
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.conflicts import for_login
from keyosk.storage.database import Database

_SORTS: Final[lists.Sorts] = {"created_at": tables.Session.id}
_FILTERS: Final[lists.Filters] = {"owner": lambda account_id: tables.Session.account == account_id}


class SessionStore:
    """Reads and writes the session table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        session = tables.Session
        self._find = database.compile(session.select().where(session.id == parameter("id")))
        # FOR UPDATE: wait for other changes of the session; SQLite has only one writer anyway.
        self._locked = (
            self._find
            if database.is_sqlite
            else database.compile(
                session.select().where(session.id == parameter("id")).for_update(), repeatable=False
            )
        )
        unchanged: Any = (
            (session.id == parameter("id"))
            & (session.digest == parameter("known_digest"))
            & (session.tokens == parameter("known_tokens"))
        )
        if not database.is_sqlite:
            # In a pipeline it must not wait for others; whoever has locked the session changes it.
            found = session.select(session.id).where(unchanged)
            unchanged = session.id == found.for_update(skip_locked=True)
        self._rotate = database.compile(
            session.update(
                digest=parameter("digest"),
                tokens=parameter("tokens"),
                rotated_at=parameter("rotated_at"),
            )
            .where(unchanged)
            .returning(session.id),
            writes=True,
        )

    @for_login()
    def add(self, session: Session) -> None:
        """Insert a session. Raises ``BadCredentials``."""
        self._database.insert(
            tables.Session,
            [
                {
                    "id": session.id,
                    "account": session.account_id,
                    "password_id": session.password_id,
                    "api_key": session.api_key_id,
                    "audiences": json.dumps(session.audiences),
                    "scopes": json.dumps(session.scopes),
                    "digest": session.digest,
                    "tokens": json.dumps(session.tokens),
                    "address": session.address,
                    "authenticated_at": session.authenticated_at,
                    "created_at": session.created_at,
                    "rotated_at": session.rotated_at,
                    "expires_at": session.expires_at,
                }
            ],
        )

    def find(self, session_id: str) -> Session | None:
        """Return the session with this id."""
        row = self._find.first(id=session_id)
        return None if row is None else session_of(row)

    def locked(self, session_id: str) -> Session | None:
        """Return the session, locked against other changes until the transaction ends."""
        row = self._locked.first(id=session_id)
        return None if row is None else session_of(row)

    def rotate(self, session: Session, *, since: Session) -> bool:
        """Store a use of the session, if it has not changed since it was read.

        Returns whether it was stored. ``since``: the session as it was read.
        """
        written = self._rotate(
            id=session.id,
            digest=session.digest,
            tokens=json.dumps(session.tokens),
            rotated_at=session.rotated_at,
            known_digest=since.digest,
            known_tokens=json.dumps(since.tokens),
        )
        return bool(written)

    def date_back(self, session: Session) -> None:
        """Correct the times of a session, unless another process has done so."""
        self._database.write(
            tables.Session.update(
                created_at=session.created_at, expires_at=session.expires_at
            ).where(
                (tables.Session.id == session.id) & (tables.Session.created_at > session.created_at)
            )
        )

    def page(self, account_id: str, list_query: ListQuery) -> list[Session]:
        """Return a page of the account's sessions."""
        query = lists.page(
            _sessions_of(account_id), list_query, key=tables.Session.id, sorts=_SORTS, filters={}
        )
        return [session_of(row) for row in self._database.rows(query)]

    def count(self, account_id: str, list_query: ListQuery) -> int:
        """Return the number of the account's sessions."""
        return self._database.count(lists.filtered(_sessions_of(account_id), list_query, {}))

    def page_of_all(self, list_query: ListQuery, now: int) -> list[Session]:
        """Return a page of the active sessions of all accounts; the filter ``owner`` is an id."""
        query = lists.page(
            self._active(now), list_query, key=tables.Session.id, sorts=_SORTS, filters=_FILTERS
        )
        return [session_of(row) for row in self._database.rows(query)]

    def count_of_all(self, list_query: ListQuery, now: int) -> int:
        """Return the number of active sessions of all accounts."""
        query = lists.filtered(self._active(now), list_query, _FILTERS)
        return lists.count(self._database, query, list_query)

    def _active(self, now: int) -> Any:
        expires_at = lists.unindexed(self._database, tables.Session.expires_at)
        return tables.Session.select().where(expires_at > now)

    def remove(self, session_id: str) -> None:
        """Delete one session."""
        self._database.write(tables.Session.delete().where(tables.Session.id == session_id))

    def remove_of_account(self, account_id: str, *, by_password: bool = False) -> None:
        """Delete the sessions of an account; ``by_password``: only those that a password began."""
        condition = tables.Session.account == account_id
        if by_password:
            condition &= tables.Session.password_id.is_null(False)
        self._database.write(tables.Session.delete().where(condition))

    def remove_of_api_key(self, key_id: str) -> None:
        """Delete the sessions that an API key began."""
        self._database.write(tables.Session.delete().where(tables.Session.api_key == key_id))

    def remove_for_audience(self, audience: str) -> None:
        """Delete the sessions whose tokens are for an audience, alone or with others."""
        # The column is JSON, so the audience is quoted; no two audiences differ only in case.
        has_audience = tables.Session.audiences.contains(json.dumps(audience))
        self._database.write(tables.Session.delete().where(has_audience))

    def remove_expired(self, now: int) -> None:
        """Delete the sessions that have ended by ``now``."""
        self._database.write(tables.Session.delete().where(tables.Session.expires_at <= now))


def _sessions_of(account_id: str) -> Any:
    return tables.Session.select().where(tables.Session.account == account_id)


def session_of(row: Mapping[str, Any]) -> Session:
    """Return the session of a row by column."""
    return Session(
        id=row["id"],
        account_id=row["account"],
        password_id=row["password_id"],
        api_key_id=row["api_key"],
        audiences=tuple(json.loads(row["audiences"])),
        scopes=tuple(json.loads(row["scopes"])),
        digest=bytes(row["digest"]),
        tokens=json.loads(row["tokens"]),
        address=row["address"],
        authenticated_at=row["authenticated_at"],
        created_at=row["created_at"],
        rotated_at=row["rotated_at"],
        expires_at=row["expires_at"],
    )
