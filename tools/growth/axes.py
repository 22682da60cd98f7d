"""What grows, what is asked at each size, and how flat it has to be."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from subject import HashClock, Login, Subject

from keyosk.model import OPERATOR, ListQuery

NewDatabase = Callable[[], str]
_Call = Callable[[int], object]

#: How many times the cost at the smallest size a row may cost at any other.
FLAT: Final = 1.1
#: CPU seconds of one sample; shorter ones would be noise.
_SECONDS: Final = 0.15
_MOST_CALLS: Final = 300
_ACCOUNTS: Final = 200
_HASHING: Final = HashClock()


@dataclass(frozen=True)
class Row:
    """A measured request.

    Attributes:
        limit: How many times the cost at the smallest size it may have; ``None``: it has no target.
        unit: The unit of its figures.
        least: What each figure should reach.
        value: Returns the figure itself, if nothing is called; once, in the order of the rows.
        less: Returns the CPU seconds so far that do not count.
    """

    name: str
    call: _Call | None = None
    limit: float | None = FLAT
    unit: str = "us"
    least: float | None = None
    value: Callable[[], float] | None = None
    less: Callable[[], float] | None = None


@dataclass(frozen=True)
class Axis:
    """A kind of objects whose number grows."""

    name: str
    title: str
    fill: Callable[[Subject, int], None]
    rows: Callable[[Subject], Iterator[Row]]


@dataclass(frozen=True)
class Measured:
    """A row's figure at each size, and their ratios to the smallest, medians of the rounds'."""

    row: Row
    figures: list[float]
    ratios: list[float]


def measure(axis: Axis, sizes: Sequence[int], new: NewDatabase, *, rounds: int) -> list[Measured]:
    """Fill a database of each size, and ask all of them in turn."""
    with ExitStack() as open_:
        subjects = []
        for size in sizes:
            subjects.append(Subject(new()))
            open_.callback(subjects[-1].keyosk.database.close)
            axis.fill(subjects[-1], size)
        every = [list(axis.rows(subject)) for subject in subjects]
        found = []
        for rows in zip(*every, strict=True):
            if rows[0].value is not None:
                samples = [[row.value() if row.value else math.nan for row in rows]]
            else:
                counts = [_calls(subject, row) for subject, row in zip(subjects, rows, strict=True)]
                samples = [
                    [
                        _cost(*each, begin=number * _MOST_CALLS)
                        for each in zip(subjects, rows, counts, strict=True)
                    ]
                    for number in range(rounds)
                ]
            found.append(
                Measured(
                    rows[0],
                    [statistics.median(each) for each in zip(*samples, strict=True)],
                    [
                        statistics.median(sample[place] / sample[0] for sample in samples)
                        for place in range(len(sizes))
                    ],
                )
            )
            print(f"  {rows[0].name}", file=sys.stderr)
        return found


def _calls(subject: Subject, row: Row) -> int:
    """How many calls a sample needs; the first ones fill caches."""
    _cost(subject, row, 2)
    return min(_MOST_CALLS, math.ceil(_SECONDS / (_cost(subject, row, 3) / 1e6)))


def _cost(subject: Subject, row: Row, calls: int, *, begin: int = 0) -> float:
    assert row.call is not None
    row.call(begin)  # not measured: it may include what is due once a minute
    before = row.less() if row.less else 0.0
    cost = subject.cost(row.call, calls, begin=begin)
    return cost - ((row.less() - before) / calls * 1e6 if row.less else 0.0)


# ---- the rows ----------------------------------------------------------------------------------


def _of_accounts(subject: Subject) -> Iterator[Row]:
    size = subject.bytes() - subject.empty_bytes
    accounts = subject.keyosk.database.raw.execute_sql("SELECT count(*) FROM account")
    count = accounts.fetchall()[0][0]
    yield Row(
        "import, lines a second",
        value=lambda: subject.imported,
        unit="/s",
        limit=None,
        least=20_000,
    )
    yield Row("bytes an account, with grant, key and audit", value=lambda: size / count, unit="B")
    yield Row("token by API key", _by_key(subject))
    yield Row(
        "token by password, beside the hash",
        lambda number: subject.token(_login(subject, number).by_password),
        less=lambda: _HASHING.spent,
    )
    yield Row(
        "one account", lambda n: subject.by_admin("GET", f"/accounts/{_login(subject, n).id}")
    )
    yield Row("disable and enable an account", _switch(subject))
    middle = subject.logins[len(subject.logins) // 2]
    for path in (
        "/accounts",
        "/accounts?sort=username",
        "/accounts?sort=-updated_at",
        "/accounts?scope=todo:read",
        "/accounts?scope=todo:rare",
        "/accounts?role=reader",
        "/accounts?kind=machine",
        "/accounts?enabled=false",
    ):
        yield _list(subject, path)
    for path in ("/accounts", "/accounts?scope=todo:read", "/accounts?enabled=false"):
        yield _list(
            subject,
            subject.deep(path, value=middle.created_at, key=middle.id),
            name=f"{path}, from its middle",
        )
    yield _list(subject, "/accounts?q=acct9")
    yield _list(subject, f"/accounts?q={middle.username}", name="/accounts?q=, one finds")
    yield _list(subject, "/accounts?q=nobody")
    yield _list(subject, "/accounts?total=capped", limit=None)
    yield _list(subject, "/accounts?total=true", limit=None)


def _of_services(subject: Subject) -> Iterator[Row]:
    yield Row("token by API key", _by_key(subject))
    yield Row("token by API key for one audience", _by_key(subject, "audience=todo"))
    yield Row("introspection", _introspection(subject))
    yield Row("one service", lambda _: subject.by_admin("GET", "/services/todo"))
    yield _list(subject, "/services?limit=10")
    yield Row("key set", lambda _: subject.send("GET", "/auth/jwks"))


def _of_grants(subject: Subject) -> Iterator[Row]:
    yield Row("token by API key for one scope", _by_key(subject, "scope=wide:scope-0"), limit=None)
    yield Row("token by API key for all", _by_key(subject, "audience=wide"), limit=None)
    yield Row("introspection", _introspection(subject, "scope=wide:scope-0"), limit=None)
    yield Row("disable and enable an account", _switch(subject))


def _of_revocations(subject: Subject) -> Iterator[Row]:
    last = subject.keyosk.revocation_list.snapshot().published.sequence
    yield Row("token by API key", _by_key(subject))
    yield Row("introspection", _introspection(subject))
    yield Row("disable and enable an account", _switch(subject))
    yield Row("feed, whole", lambda _: subject.send("GET", "/auth/revocations"), limit=None)
    yield Row(
        "feed, whole, gzip",
        lambda _: subject.send("GET", "/auth/revocations", gzip="yes"),
        limit=None,
    )
    yield Row("feed, what is new", lambda _: subject.send("GET", f"/auth/revocations?since={last}"))

    def change(number: int) -> None:
        subject.keyosk.accounts.revoke_tokens(OPERATOR, _other(subject, number).id)
        subject.send("GET", f"/auth/revocations?since={last}")

    yield Row("revoke an account's tokens, and the first reader's delta", change, limit=None)


def _of_audit_rows(subject: Subject) -> Iterator[Row]:
    count = subject.keyosk.audit.count(ListQuery())
    size = (subject.bytes() - subject.empty_bytes) / count
    yield Row("bytes a row", value=lambda: size, unit="B")
    yield Row("disable and enable an account", _switch(subject))
    middle = {"value": count // 2, "key": count // 2}
    for path in (
        "/audit",
        "/audit?sort=-sequence",
        "/audit?sort=-time",
        "/audit?actor=admin",
        f"/audit?actor={subject.logins[0].id}",
        "/audit?action=account.change",
        "/audit?action=account.create",
        "/audit?credential=password",
        "/audit?outcome=done",
        "/audit?outcome=refused",
        "/audit?since=2026-01-01T00:00:00Z",
        "/audit?until=2100-01-01T00:00:00Z&sort=-time",
        f"/audit?target=account/{subject.logins[0].id}",
        "/audit?actor=admin&action=account.change",
        "/audit?actor=admin&action=account.delete",
        "/audit?actor=admin&action=role.delete",
        "/audit?action=account.change&until=2026-01-01T00:00:00Z&sort=-sequence",
        "/audit?credential=password&since=2026-01-01T00:00:00Z",
    ):
        yield _list(subject, path, name=path.replace(subject.logins[0].id, "ID"))
    for one in (f"actor={subject.logins[0].id}", "credential=password"):
        # No index serves both filters, and the smallest size has fewer rows than a page looks at.
        path = f"/audit?{one}&action=account.delete"
        yield _list(subject, path, name=path.replace(subject.logins[0].id, "ID"), limit=None)
    for path in ("/audit", "/audit?action=account.change", "/audit?actor=admin"):
        yield _list(subject, subject.deep(path, **middle), name=f"{path}, from its middle")
    yield _list(subject, "/audit?total=capped", limit=None)
    yield _list(subject, "/audit?total=true", limit=None)
    yield _list(subject, "/audit/chain")
    yield Row("verify, a row", value=lambda: _verify(subject, count))
    yield Row("prune, a row", value=lambda: _prune(subject))


def _login(subject: Subject, number: int) -> Login:
    """Return an account that gets tokens."""
    half = len(subject.logins) // 2
    return subject.logins[number % half * 2]


def _other(subject: Subject, number: int) -> Login:
    """Return an account that loses rights: it gets no token in the same second."""
    half = len(subject.logins) // 2
    return subject.logins[number % half * 2 + 1]


def _by_key(subject: Subject, form: str = "") -> _Call:
    return lambda number: subject.token(_login(subject, number).by_key, form)


def _introspection(subject: Subject, form: str = "") -> _Call:
    who = _login(subject, 0)
    subject.keyosk.services.change(OPERATOR, "todo", {"account": who.username})
    if form:
        subject.keyosk.services.change(OPERATOR, "wide", {"account": who.username})
    token = subject.token(_login(subject, 1).by_key, form)
    return lambda _: subject.send(
        "POST", "/auth/introspect", login=who.by_key, form=f"token={token}"
    )


def _switch(subject: Subject) -> _Call:
    def switch(number: int) -> None:
        path = f"/accounts/{_other(subject, number).id}"
        for body in ('{"enabled": false}', '{"enabled": true}'):
            subject.by_admin("PATCH", path, json_=body)

    return switch


def _list(subject: Subject, path: str, *, name: str = "", limit: float | None = FLAT) -> Row:
    return Row(name or path, lambda _: subject.by_admin("GET", path), limit=limit)


def _verify(subject: Subject, count: int) -> float:
    began = subject.cpu()
    verdict = subject.keyosk.audit.verify()
    assert verdict.fault is None, verdict.fault
    return (subject.cpu() - began) / count * 1e6


def _prune(subject: Subject) -> float:
    began = subject.cpu()
    rows = subject.keyosk.audit.prune(OPERATOR, int(time.time()) + 1)
    return (subject.cpu() - began) / rows * 1e6


def _base(subject: Subject, _size: int = 0) -> None:
    subject.fill(_ACCOUNTS)


def _after(more: Callable[[Subject, int], None]) -> Callable[[Subject, int], None]:
    def fill(subject: Subject, size: int) -> None:
        _base(subject)
        more(subject, size)

    return fill


ALL: Final = {
    axis.name: axis
    for axis in (
        Axis("accounts", "accounts, each with a grant and a key", Subject.fill, _of_accounts),
        Axis("services", "services", _after(Subject.add_services), _of_services),
        Axis("grants", "grants an account", _after(Subject.add_grants), _of_grants),
        Axis("revocations", "live revocations", _after(Subject.add_revocations), _of_revocations),
        Axis("audit", "audit rows", _after(Subject.add_audit_rows), _of_audit_rows),
    )
}
