"""The checks of keyosk doctor for workloads: the keys of issuers, and unused rules."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from keyosk import checks
from keyosk.checks import Check
from keyosk.model import ListQuery, TrustedIssuer

if TYPE_CHECKING:
    from keyosk.cli.client import Client
    from keyosk.installation import Installation

_PAGE: Final = 200


def keys_of(installation: "Installation") -> Iterator[Check]:
    """Fetch the keys of each enabled issuer from this machine."""
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
    if issuer.keys is not None:
        return checks.of_given_keys(issuer.name, age=time.time() - issuer.updated_at)
    state = installation.foreign_keys.inspect(issuer)
    return checks.of_fetched_keys(
        issuer.name, age=state.age, fault=state.fault, fetchable="its keys can be fetched"
    )


def rules_of(client: "Client") -> Iterator[Check]:
    """Check all rules: those that let nobody log in, and those that nobody used."""
    accounts: dict[str, Mapping[str, Any]] = {}
    for issuer in client.items("issuers"):
        name = str(issuer.get("name"))
        rules = list(client.items("issuers", name, "rules"))
        for rule in rules:
            username = str(rule.get("account"))
            if username not in accounts:
                accounts[username] = client.get("accounts", username).body
        yield from checks.of_rules(name, rules, accounts, now=time.time())
