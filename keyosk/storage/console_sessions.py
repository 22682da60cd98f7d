"""Console sessions and pending logins."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from keyosk.model import PASSWORD, ConsoleSession, ListQuery, LoginNotice, PendingLogin
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.conflicts import for_login
from keyosk.storage.database import Database

_SORTS: Final[lists.Sorts] = {"created_at": tables.ConsoleSession.id}
_FILTERS: Final[lists.Filters] = {
    "owner": lambda account_id: tables.ConsoleSession.account == account_id
}


class ConsoleSessionStore:
    """Reads and writes the table of console sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        session = tables.ConsoleSession
        self._find = database.compile(session.select().where(session.digest == parameter("digest")))

    @for_login()
    def add(self, session: ConsoleSession) -> None:
        """Insert a session. Raises ``BadCredentials``."""
        self._database.insert(
            tables.ConsoleSession,
            [
                {
                    "id": session.id,
                    "account": session.account_id,
                    "password_id": session.password_id,
                    "digest": session.digest,
                    "address": session.address,
                    "agent": session.agent,
                    "created_at": session.created_at,
                    "seen_at": session.seen_at,
                    "confirmed_at": session.confirmed_at,
                    "expires_at": session.expires_at,
                    "notice": json.dumps(dataclasses.asdict(session.notice)),
                    "amr": " ".join(session.amr),
                }
            ],
        )

    def find(self, digest: bytes) -> ConsoleSession | None:
        """Return the session whose secret has this hash."""
        row = self._find.first(digest=digest)
        return None if row is None else _session(row)

    def get(self, account_id: str, session_id: str) -> ConsoleSession | None:
        """Return a session of the account."""
        session = tables.ConsoleSession
        row = self._database.row(
            session.select().where((session.id == session_id) & (session.account == account_id))
        )
        return None if row is None else _session(row)

    def record_use(self, session_id: str, now: int) -> None:
        """Record a use of the session."""
        self._change(session_id, {"seen_at": now})

    def record_confirmation(self, session_id: str, now: int) -> bool:
        """Record a confirmation; returns whether the session exists."""
        return self._change(session_id, {"confirmed_at": now}) == 1

    def challenge(self, session_id: str, challenge: bytes, now: int) -> None:
        """Store the challenge for a passkey."""
        self._change(session_id, {"challenge": challenge, "challenged_at": now})

    def take_challenge(self, session_id: str, challenge: bytes) -> bool:
        """Delete a challenge; returns whether it existed, because each is used only once."""
        session = tables.ConsoleSession
        pending = (session.id == session_id) & (session.challenge == challenge)
        return self._database.write(session.update(challenge=None).where(pending)) == 1

    def raise_to(self, session_id: str, amr: Sequence[str], digest: bytes) -> None:
        """Store how the owner has proved who they are, and the hash of a new secret."""
        self._change(session_id, {"amr": " ".join(amr), "digest": digest})

    def page(self, account_id: str, list_query: ListQuery) -> list[ConsoleSession]:
        """Return a page of the account's sessions."""
        key = tables.ConsoleSession.id
        query = lists.page(_of(account_id), list_query, key=key, sorts=_SORTS, filters={})
        return [_session(row) for row in self._database.rows(query)]

    def count(self, account_id: str, list_query: ListQuery) -> int:
        """Return the number of the account's sessions."""
        return self._database.count(lists.filtered(_of(account_id), list_query, {}))

    def page_of_all(
        self, list_query: ListQuery, now: int, *, seen_since: int
    ) -> list[ConsoleSession]:
        """Return a page of the active sessions of all accounts; the filter ``owner`` is an id."""
        query = lists.page(
            self._in_force(now, seen_since),
            list_query,
            key=tables.ConsoleSession.id,
            sorts=_SORTS,
            filters=_FILTERS,
        )
        return [_session(row) for row in self._database.rows(query)]

    def count_of_all(self, list_query: ListQuery, now: int, *, seen_since: int) -> int:
        """Return the number of active sessions of all accounts."""
        query = lists.filtered(self._in_force(now, seen_since), list_query, _FILTERS)
        return lists.count(self._database, query, list_query)

    def _in_force(self, now: int, seen_since: int) -> Any:
        session = tables.ConsoleSession
        ends = lists.unindexed(self._database, session.expires_at)
        return session.select().where((ends > now) & (session.seen_at >= seen_since))

    def remove(self, session_id: str) -> None:
        """Delete one session."""
        session = tables.ConsoleSession
        self._database.write(session.delete().where(session.id == session_id))

    def remove_of_account(self, account_id: str, *, except_for: str = "") -> None:
        """Delete the sessions of an account; ``except_for``: the id of one that stays."""
        session = tables.ConsoleSession
        others = (session.account == account_id) & (session.id != except_for)
        self._database.write(session.delete().where(others))

    def remove_expired(self, now: int) -> None:
        """Delete the sessions that have ended by ``now``."""
        session = tables.ConsoleSession
        self._database.write(session.delete().where(session.expires_at <= now))

    def _change(self, session_id: str, columns: Mapping[str, Any]) -> int:
        session = tables.ConsoleSession
        return self._database.write(session.update(**columns).where(session.id == session_id))


class PendingLoginStore:
    """Reads and writes the table of pending logins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @for_login()
    def add(self, login: PendingLogin) -> None:
        """Insert a login. Raises ``BadCredentials``."""
        self._database.insert(
            tables.PendingLogin,
            [
                {
                    "digest": login.digest,
                    "account": login.account_id,
                    "password_id": login.password_id,
                    "created_at": login.created_at,
                    "expires_at": login.expires_at,
                }
            ],
        )

    def find(self, digest: bytes) -> PendingLogin | None:
        """Return the login whose secret has this hash."""
        login = tables.PendingLogin
        row = self._database.row(login.select().where(login.digest == digest))
        if row is None:
            return None
        return PendingLogin(
            digest=bytes(row["digest"]),
            account_id=row["account"],
            password_id=row["password_id"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            challenge=None if row["challenge"] is None else bytes(row["challenge"]),
        )

    def challenge(self, digest: bytes, challenge: bytes) -> None:
        """Store the challenge for a passkey."""
        login = tables.PendingLogin
        self._database.write(login.update(challenge=challenge).where(login.digest == digest))

    def take_challenge(self, digest: bytes, challenge: bytes) -> bool:
        """Delete a challenge; returns whether it existed, because each is used only once."""
        login = tables.PendingLogin
        pending = (login.digest == digest) & (login.challenge == challenge)
        return self._database.write(login.update(challenge=None).where(pending)) == 1

    def take(self, digest: bytes) -> bool:
        """Delete a login; returns whether it existed. Of concurrent calls, only one gets true."""
        login = tables.PendingLogin
        return self._database.write(login.delete().where(login.digest == digest)) == 1

    def remove_of_account(self, account_id: str) -> None:
        """Delete the logins of an account."""
        login = tables.PendingLogin
        self._database.write(login.delete().where(login.account == account_id))

    def remove_expired(self, now: int) -> None:
        """Delete the logins that have ended by ``now``."""
        login = tables.PendingLogin
        self._database.write(login.delete().where(login.expires_at <= now))


def _of(account_id: str) -> Any:
    return tables.ConsoleSession.select().where(tables.ConsoleSession.account == account_id)


def _session(row: Mapping[str, Any]) -> ConsoleSession:
    return ConsoleSession(
        id=row["id"],
        account_id=row["account"],
        password_id=row["password_id"],
        digest=bytes(row["digest"]),
        address=row["address"],
        agent=row["agent"],
        created_at=row["created_at"],
        seen_at=row["seen_at"],
        confirmed_at=row["confirmed_at"],
        expires_at=row["expires_at"],
        notice=LoginNotice(**json.loads(row["notice"])),
        amr=tuple((row["amr"] or PASSWORD).split()),
        challenge=None if row["challenge"] is None else bytes(row["challenge"]),
        challenged_at=row["challenged_at"],
    )
