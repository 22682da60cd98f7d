"""The checks of ``keyosk doctor``: their results, and those that need values alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from keyosk.errors import counted

OK: Final = "ok"
#: It works, but an operator should know.
WARNING: Final = "warning"
WRONG: Final = "wrong"
#: It could not be checked; ``found`` says why.
NOT_CHECKED: Final = "not checked"
_HOUR: Final = 3_600
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        part: What it is.
        status: ``ok``, ``warning``, ``wrong`` or ``not checked``.
        found: What was found.
        cure: What to do, if anything.
    """

    part: str
    status: str
    found: str
    cure: str = ""

    @property
    def shape(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def of_keys(found: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    """Check the signing keys, as the API returns them, and who has not fetched the next one."""
    keys = list(found)
    active = [key for key in keys if key.get("state") == "active"]
    if not active:
        yield Check("keys", WRONG, "no key signs", "Run keyosk signing-key rotate --now")
    else:
        kid, algorithm = active[0].get("kid"), active[0].get("algorithm")
        yield Check("keys", OK, f"{kid} signs ({algorithm}); {counted(len(keys), 'key')} in all")
    following = [key for key in keys if key.get("state") == "next"]
    if not following:
        yield Check("next key", OK, "none is published yet")
    for key in following:
        unseen = ", ".join(map(str, key.get("not_seen_by") or ()))
        if not unseen:
            yield Check("next key", OK, f"every known service has fetched {key.get('kid')}")
        else:
            yield Check(
                "next key",
                WARNING,
                f"not fetched yet by {unseen}; it signs from {key.get('active_from')}",
                "See that these services fetch the key set again: they would refuse new tokens. "
                "keyosk signing-key rotate --when-seen waits for them.",
            )


def of_given_keys(issuer: str, *, age: float) -> Check:
    """Report that an issuer's keys are given; ``age``: seconds since it was changed."""
    message = f"its keys were given; it was changed {_for_people(age)} ago"
    return Check(f"issuer {issuer}", OK, message)


def of_fetched_keys(issuer: str, *, age: int | None, fault: str | None, fetchable: str) -> Check:
    """Check the keys of an issuer that are fetched.

    Args:
        issuer: Its name.
        age: Seconds since the keys in use were fetched, if there are any.
        fault: Why the last fetch failed, if it did.
        fetchable: The sentence if nothing is wrong.
    """
    part = f"issuer {issuer}"
    used = "none are in use yet"
    if age is not None:
        used = f"those in use were fetched {_for_people(age)} ago"
    if fault is None:
        return Check(part, OK, f"{fetchable}; {used}")
    if age is not None:
        return Check(
            part,
            WARNING,
            f"its keys cannot be fetched: {fault}; {used}",
            "See that this machine reaches it: Keyosk uses its last keys for a day.",
        )
    return Check(
        part,
        WRONG,
        f"its keys cannot be fetched: {fault}",
        "Its workloads cannot log in. See that this machine reaches it, or give its keys: keyosk "
        f"issuer set {issuer} --keys FILE",
    )


def of_rules(
    issuer: str,
    rules: Sequence[Mapping[str, Any]],
    accounts: Mapping[str, Mapping[str, Any]],
    *,
    now: float,
) -> Iterator[Check]:
    """Check the rules of an issuer: those that let nobody log in, and those that nobody used.

    Rules, and their accounts by username, are as the API returns them.
    """
    part = f"rules of {issuer}"
    if not rules:
        yield Check(
            part,
            WARNING,
            "there is none: no token of it logs in",
            f"keyosk rule create {issuer} ..., or keyosk issuer delete {issuer}",
        )
        return
    checks = [
        check
        for rule in rules
        if rule.get("enabled")
        for check in _of_rule(issuer, rule, accounts[str(rule.get("account"))], now=now)
    ]
    yield from checks or (Check(part, OK, f"{counted(len(rules), 'rule')}, in use"),)


def _of_rule(
    issuer: str, rule: Mapping[str, Any], account: Mapping[str, Any], *, now: float
) -> Iterator[Check]:
    name = str(rule.get("name"))
    part, remove = f"rule {issuer}/{name}", f"keyosk rule delete {issuer} {name}"
    if not account.get("enabled") or _is_over(account.get("expires_at"), now):
        yield Check(
            part,
            WARNING,
            f"its account {account.get('username')} is disabled or has expired",
            f"Enable the account, or {remove}",
        )
    elif _is_over(rule.get("expires_at"), now):
        yield Check(part, WARNING, f"it ended at {rule.get('expires_at')}", remove)
    elif rule.get("last_used_at") is None:
        yield Check(
            part,
            WARNING,
            f"no token ever logged in by it; it was made at {rule.get('created_at')}",
            f"See what misses: keyosk issuer test {issuer} < token",
        )


def _is_over(moment: object, now: float) -> bool:
    return isinstance(moment, str) and datetime.fromisoformat(moment).timestamp() <= now


def _for_people(seconds: float) -> str:
    if seconds < 2 * _HOUR:
        return counted(int(seconds) // 60, "minute")
    if seconds < 2 * _DAY:
        return counted(int(seconds) // _HOUR, "hour")
    return counted(int(seconds) // _DAY, "day")
