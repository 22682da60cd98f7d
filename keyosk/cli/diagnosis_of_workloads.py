"""What keyosk doctor looks at of workloads: the keys of issuers, and rules that nobody needs."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from keyosk.checks import OK, WARNING, WRONG, Check
from keyosk.errors import counted
from keyosk.model import ListQuery, TrustedIssuer

if TYPE_CHECKING:
    from keyosk.cli.client import Client
    from keyosk.installation import Installation

_HOUR: Final = 3_600
_DAY: Final = 86_400
_PAGE: Final = 200


def keys_of(installation: "Installation") -> Iterator[Check]:
    """Fetch the keys of each issuer that is enabled, from this machine."""
    after: tuple[str, str] | None = None
    while True:
        page = installation.issuers.page(ListQuery(limit=_PAGE, after=after))
        for issuer in page:
            if issuer.enabled:
                yield _keys(installation, issuer)
        if len(page) < _PAGE:
            return
        after = (page[-1].id, page[-1].id)  # by time, which is in the id


def _keys(installation: "Installation", issuer: TrustedIssuer) -> Check:
    part = f"issuer {issuer.name}"
    if issuer.keys is not None:
        since = _for_people(time.time() - issuer.updated_at)
        return Check(part, OK, f"its keys were given; it was changed {since} ago")
    state = installation.foreign_keys.inspect(issuer)
    used = "none are in use yet"
    if state.age is not None:
        used = f"those in use were fetched {_for_people(state.age)} ago"
    if state.fault is None:
        return Check(part, OK, f"its keys can be fetched; {used}")
    if state.age is not None:
        return Check(
            part,
            WARNING,
            f"its keys cannot be fetched: {state.fault}; {used}",
            "See that this machine reaches it: Keyosk uses its last keys for a day.",
        )
    return Check(
        part,
        WRONG,
        f"its keys cannot be fetched: {state.fault}",
        "Its workloads cannot log in. See that this machine reaches it, or give its keys: keyosk "
        f"issuer set {issuer.name} --keys FILE",
    )


def rules_of(client: "Client") -> Iterator[Check]:
    """Look at all rules: what nobody can log in by, and what nobody ever did."""
    accounts: dict[str, Mapping[str, Any]] = {}
    for issuer in client.items("issuers"):
        name = str(issuer.get("name"))
        found: list[Check] = []
        rules = list(client.items("issuers", name, "rules"))
        for rule in rules:
            username = str(rule.get("account"))
            if username not in accounts:
                accounts[username] = client.get("accounts", username).body
            if rule.get("enabled"):
                found += _rule(name, rule, accounts[username])
        yield from found
        if not rules:
            yield Check(
                f"rules of {name}",
                WARNING,
                "there is none: no token of it logs in",
                f"keyosk rule create {name} ..., or keyosk issuer delete {name}",
            )
        elif not found:
            yield Check(f"rules of {name}", OK, f"{counted(len(rules), 'rule')}, in use")


def _rule(issuer: str, rule: Mapping[str, Any], account: Mapping[str, Any]) -> Iterator[Check]:
    name = str(rule.get("name"))
    part, remove = f"rule {issuer}/{name}", f"keyosk rule delete {issuer} {name}"
    if not account.get("enabled") or _is_over(account.get("expires_at")):
        yield Check(
            part,
            WARNING,
            f"its account {account.get('username')} is disabled or has expired",
            f"Enable the account, or {remove}",
        )
    elif _is_over(rule.get("expires_at")):
        yield Check(part, WARNING, f"it ended at {rule.get('expires_at')}", remove)
    elif rule.get("last_used_at") is None:
        yield Check(
            part,
            WARNING,
            f"no token ever logged in by it; it was made at {rule.get('created_at')}",
            f"See what misses: keyosk issuer test {issuer} < token",
        )


def _is_over(moment: object) -> bool:
    return isinstance(moment, str) and datetime.fromisoformat(moment).timestamp() <= time.time()


def _for_people(seconds: float) -> str:
    if seconds < 2 * _HOUR:
        return counted(int(seconds) // 60, "minute")
    if seconds < 2 * _DAY:
        return counted(int(seconds) // _HOUR, "hour")
    return counted(int(seconds) // _DAY, "day")
