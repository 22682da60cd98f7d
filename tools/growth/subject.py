"""One Keyosk in this process, on a database of its own: how it is filled, asked and timed."""

import base64
import io
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from werkzeug.test import create_environ

from keyosk import app, config
from keyosk.credentials import api_key_format
from keyosk.credentials.password_hashing import Passwords
from keyosk.ids import new_id, new_version
from keyosk.installation import Installation
from keyosk.model import OPERATOR, AuditAction, Claim, CredentialKind, Grant, Scope
from keyosk.storage import tables
from keyosk.web import lines

#: Accounts that log in and are looked at, evenly spread over all.
SAMPLE: Final = 100
#: Accounts that hold the scope ``todo:rare``.
_RARE: Final = 10
_PART: Final = 10_000


@dataclass(frozen=True)
class Login:
    """An account of the sample, and its ``Authorization`` by key and by password."""

    id: str
    username: str
    created_at: int
    by_key: str
    by_password: str


class Subject:
    """A Keyosk whose requests are measured."""

    def __init__(self, url: str) -> None:
        password = secrets.token_urlsafe(24)
        settings = config.load(
            {
                "KEYOSK_DATABASE_URL": url,
                "KEYOSK_ADMIN_PASSWORD": password,
                "KEYOSK_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            }
        )
        app.prepare(settings)
        self.keyosk = Installation(settings)
        # As in the server, each line of the log is formatted and written; here to nowhere.
        logging.basicConfig(stream=io.StringIO(), level=logging.INFO, format="%(message)s")
        self._application = app.create_app(self.keyosk).wsgi_app
        self._backend = self._find_backend()
        scopes = [Scope("todo:read"), Scope("todo:write"), Scope("todo:rare")]
        self.keyosk.services.create(OPERATOR, name="todo", scopes=scopes)
        self.keyosk.roles.create(OPERATOR, name="reader", scopes=["todo:read"])
        self.empty_bytes = self.bytes()
        self.logins: list[Login] = []
        self.imported = 0.0
        self._password = password
        self._admin = (0.0, "")

    # ---- filling -------------------------------------------------------------------------------

    def fill(self, accounts: int) -> None:
        """Import accounts with a grant each, give each a key, and log some of them in."""
        secret = "correct horse battery staple"  # noqa: S105  # everybody's
        hash_ = Passwords().hash(secret)
        every = max(1, accounts // SAMPLE)
        began, done = 0.0, 0
        last = accounts // 2  # the rate of the second half, when the indexes are large
        spent = self.cpu()
        source = _Lines(_lines(accounts, every, hash_))
        for results in self.keyosk.bulk.import_accounts(lambda: OPERATOR, lines.read(source)):
            for result in results:
                assert result.status == "created", lines.result_line(result)
            if done < last <= done + len(results):
                began = self.cpu()
                last = done + len(results)
            done += len(results)
        self.imported = (done - last) / (self.cpu() - began)
        print(f"  {done} lines in {self.cpu() - spent:.0f} s of CPU", file=sys.stderr)
        self._give_keys()
        names = [f"acct{number}" for number in range(0, accounts, every)][:SAMPLE]
        for name in names:
            account = self.keyosk.accounts.get(name)
            key = self.keyosk.api_keys.create(OPERATOR, name, name="growth").secret
            self.logins.append(
                Login(
                    account.id,
                    name,
                    account.created_at,
                    by_key=_basic(name, key),
                    by_password=_basic(name, secret),
                )
            )
        self.keyosk.audit.seal()
        self.settle()

    def add_services(self, services: int) -> None:
        """Make services, each with two scopes."""
        for number in range(services):
            name = f"service-{number}"
            scopes = [Scope(f"{name}:read"), Scope(f"{name}:write")]
            self.keyosk.services.create(OPERATOR, name=name, scopes=scopes)
        self.settle()

    def add_grants(self, grants: int) -> None:
        """Give each account of the sample so many scopes, all of one service."""
        scopes = [Scope(f"wide:scope-{number}") for number in range(grants)]
        self.keyosk.services.create(OPERATOR, name="wide", scopes=scopes)
        for login in self.logins:
            held = [Grant(scope.name) for scope in scopes]
            self.keyosk.grants.replace(OPERATOR, login.username, held)
        self.settle()

    def add_revocations(self, revocations: int) -> None:
        """Publish revocations of single tokens, of as many accounts, that live for an hour."""
        expires = int(time.time()) + 3_600
        for part in _parts(revocations):
            first = self.keyosk.revocation_list.snapshot().published.sequence + 1
            rows = [
                {
                    "sequence": first + place,
                    "claim": Claim.JTI.value,
                    "value": new_id(),
                    "issued_before": None,
                    "expires": expires,
                    "account": new_id(),
                    "issued_at": expires - 4_500,
                }
                for place in range(len(part))
            ]
            self.keyosk.database.insert_all(tables.Revocation, rows)
        self.settle()

    def add_audit_rows(self, rows: int) -> None:
        """Write and seal rows of the audit log: of the operator, of an admin, and of a program."""
        admin = self.keyosk.accounts.get("admin")
        by_password = replace(
            OPERATOR,
            account_id=admin.id,
            username=admin.username,
            credential=CredentialKind.PASSWORD,
            address="192.0.2.1",
        )
        program = self.logins[0]
        by_key = replace(
            by_password,
            account_id=program.id,
            username=program.username,
            credential=CredentialKind.API_KEY,
            credential_id=new_id(),
        )
        after = {"display_name": "Somebody"}
        for number, part in enumerate(_parts(rows)):
            for place, by in enumerate((OPERATOR, by_password, by_key)):
                action: AuditAction = "account.change" if place or number % 10 else "account.delete"
                targets = {f"account/{new_id()}": after for _ in part[place::3]}
                with self.keyosk.database.transaction():
                    self.keyosk.audit.record_all(by, action, targets)
                self.keyosk.audit.seal()
        self.settle()

    def settle(self) -> None:
        """Update the planner's statistics, as autovacuum would."""
        if not self.keyosk.database.is_sqlite:
            with self.keyosk.database.raw.without_timeouts():
                self.keyosk.database.raw.execute_sql("VACUUM ANALYZE")

    def _give_keys(self) -> None:
        """Give every account an unknown key. Real ones could only be created one by one."""
        accounts = self.keyosk.database.rows(tables.Account.select(tables.Account.id))
        now = int(time.time())
        for start in range(0, len(accounts), _PART):
            rows = [_key_of(account["id"], now) for account in accounts[start : start + _PART]]
            with self.keyosk.database.transaction():
                self.keyosk.database.insert_all(tables.ApiKey, rows)

    # ---- asking --------------------------------------------------------------------------------

    def token(self, login: str, form: str = "") -> str:
        """Return a token for this login."""
        text: str = json.loads(self.send("POST", "/auth/token", login=login, form=form))[
            "access_token"
        ]
        return text

    def by_admin(self, method: str, path: str, **parts: str) -> bytes:
        """Send a request with a token of the admin's."""
        if time.monotonic() > self._admin[0]:
            # "admin" is the username of the first account.
            token = self.token(_basic("admin", self._password), "audience=keyosk")
            self._admin = (time.monotonic() + 120, f"Bearer {token}")
        return self.send(method, path, login=self._admin[1], **parts)

    def deep(self, path: str, **place: Any) -> str:
        """Return the path of a page in the middle of a list, after the ``value`` and ``key``."""
        page = json.loads(self.by_admin("GET", path))
        if page["next"] is None:
            return path
        cursor = json.loads(base64.urlsafe_b64decode(page["next"] + "=="))
        cursor[1], cursor[2] = place["value"], place["key"]
        text = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
        return f"{path}{'&' if '?' in path else '?'}cursor={text}"

    def send(
        self,
        method: str,
        path: str,
        *,
        login: str = "",
        form: str = "",
        json_: str = "",
        gzip: str = "",
    ) -> bytes:
        """Send a request; returns the response's body."""
        headers = {"Authorization": login} if login else {}
        if gzip:
            headers["Accept-Encoding"] = "gzip"
        kind = "application/merge-patch+json" if json_ else "application/x-www-form-urlencoded"
        base, _, query = path.partition("?")
        environ = create_environ(
            base,
            method=method,
            query_string=query,
            headers=headers,
            data=json_ or form,
            content_type=kind if json_ or form else None,
        )
        statuses: list[str] = []
        response = self._application(environ, lambda status, *_: statuses.append(status))
        body = b"".join(response)
        response.close()  # type: ignore[attr-defined]  # runs what follows the response
        if not statuses[0].startswith("200"):
            raise SystemExit(f"{method} {path}: {statuses[0]}: {body.decode()}")
        return body

    # ---- timing --------------------------------------------------------------------------------

    def cpu(self) -> float:
        """The CPU seconds of this process, and of the backend that it is connected to."""
        spent = time.process_time()
        if self._backend is not None:
            spent += int(self._backend.read_text().split()[0]) / 1e9
        return spent

    def cost(self, call: Callable[[int], object], calls: int, *, begin: int = 0) -> float:
        """The CPU microseconds of one call."""
        began = self.cpu()
        for number in range(begin, begin + calls):
            call(number)
        return (self.cpu() - began) / calls * 1e6

    def bytes(self) -> int:
        """The size of the database."""
        raw = self.keyosk.database.raw
        if self.keyosk.database.is_sqlite:
            raw.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            assert self.keyosk.database.path is not None
            return Path(self.keyosk.database.path).stat().st_size
        ((size,),) = raw.execute_sql("SELECT pg_database_size(current_database())").fetchall()
        return int(size)

    def _find_backend(self) -> Path | None:
        if self.keyosk.database.is_sqlite:
            return None
        ((pid,),) = self.keyosk.database.raw.execute_sql("SELECT pg_backend_pid()").fetchall()
        return Path(f"/proc/{pid}/schedstat")


class HashClock:
    """Records the CPU time of verifying passwords, so that it can be subtracted."""

    def __init__(self) -> None:
        self.spent = 0.0
        verify = Passwords.verify

        def timed(passwords: Passwords, password: str, stored: str | None) -> str | None:
            began = time.process_time()
            try:
                return verify(passwords, password, stored)
            finally:
                self.spent += time.process_time() - began

        Passwords.verify = timed  # type: ignore[method-assign]


class _Lines(io.RawIOBase):
    """Lines as a source of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)

    def read(self, size: int = -1, /) -> bytes:
        content = ""
        for text in self._texts:
            content += text
            if len(content) >= size:
                break
        return content.encode()


def _lines(accounts: int, every: int, hash_: str) -> Iterator[str]:
    for number in range(accounts):
        line: dict[str, Any] = {
            "username": f"acct{number}",
            "display_name": f"Account {number}",
            "kind": "machine" if number % 2 else "person",
            "enabled": number % 10 != 9 or number % every == 0,
            "grants": {"roles": ["reader"]} if number % 2 else {"scopes": ["todo:read"]},
        }
        if number < _RARE:
            line["grants"] = {"scopes": ["todo:read", "todo:rare"]}
        if number % every == 0:
            line["password_hash"] = hash_
        yield json.dumps(line) + "\n"


def _key_of(account_id: str, now: int) -> dict[str, Any]:
    secret = api_key_format.generate()
    return {
        "id": new_id(),
        "account": account_id,
        "name": "growth",
        "description": "",
        "digest": api_key_format.digest(secret),
        "prefix": api_key_format.prefix(secret),
        "scopes": None,
        "networks": None,
        "enabled": True,
        "expires_at": None,
        "last_used_at": None,
        "successor": None,
        "created_at": now,
        "updated_at": now,
        "version": new_version(),
    }


def _parts(number: int) -> Iterator[Sequence[int]]:
    for start in range(0, number, _PART):
        yield range(start, min(number, start + _PART))


def _basic(username: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()
