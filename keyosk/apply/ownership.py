"""The owners of objects and grants that manifests created, as one plan sees them."""

from collections.abc import Iterable, Iterator

from keyosk.apply.manifest import GrantName, ManifestEntry, Noun, name_of
from keyosk.model import Grant
from keyosk.storage.manifest_records import ManifestRecord, RecordedObject
from keyosk.validation import Faults


class Ownership:
    """The owners, as one plan sees them; collects objects that the manifest may not contain."""

    def __init__(
        self, recorded: Iterable[RecordedObject], owner: str | None, *, take_over: bool
    ) -> None:
        self.faults = Faults()
        self.taken_over: list[ManifestRecord] = []
        self._owner = owner
        self._take_over = take_over
        self._recorded = tuple(recorded)
        self._owners = {
            (
                item.record.object_id,
                item.record.scope or None,
                item.record.role or None,
            ): item.record.owner
            for item in self._recorded
        }
        self._named: set[str] = set()

    def claim(self, entry: ManifestEntry, object_id: str) -> tuple[str, str | None] | None:
        """Record an object of the manifest; returns the old and the new owner if they differ."""
        self._named.add(object_id)
        owner = self._owners.get((object_id, None, None), self._owner)
        if owner is None or owner == self._owner:
            return None
        if not self._take_over:
            self.faults.add(
                entry.path,
                f"{entry.name} was made by {owner}'s file; take_over moves it to this one",
            )
            return None
        self.taken_over.append(ManifestRecord(self._owner or "", object_id))
        return owner, self._owner

    def owned_grants(
        self,
        entry: ManifestEntry,
        account_id: str,
        granted: Iterable[Grant],
        *,
        desired: Iterable[Grant],
        apart: bool = False,
    ) -> tuple[Grant, ...]:
        """Return the grants of an account without those of other owners.

        ``apart``: the manifest lists them separately from their account.
        """
        desired_names = {name_of(grant) for grant in desired}
        ours = []
        for grant in granted:
            owner = self._owners.get((account_id, *name_of(grant)), self._owner)
            if owner == self._owner:
                ours.append(grant)
            elif name_of(grant) in desired_names:
                ours.append(grant)
                if self._take_over:
                    # If a manifest lists all grants of an account, it owns all of them.
                    scope, role = grant.scope or "", grant.role or ""
                    heir = (self._owner or "") if apart else ""
                    self.taken_over.append(ManifestRecord(heir, account_id, scope, role))
                else:
                    self.faults.add(
                        f"{entry.path}.grants",
                        f"{grant.scope or grant.role} was given by {owner}'s file",
                    )
        return tuple(ours)

    def owned_grant_names(self, account_id: str) -> set[GrantName]:
        """Return the names of the grants of an account that belong to this owner."""
        return {
            (scope, role)
            for (object_id, scope, role), owner in self._owners.items()
            if object_id == account_id and owner == self._owner and (scope or role)
        }

    def left_out(self) -> Iterator[tuple[Noun, RecordedObject]]:
        """Return the existing objects of this owner that the manifest does not contain."""
        for item in self._recorded:
            if item.record.owner == self._owner and item.record.object_id not in self._named:
                if item.is_grant:
                    continue
                if item.service is not None:
                    yield Noun.SERVICE, item
                elif item.role is not None:
                    yield Noun.ROLE, item
                elif item.account is not None:
                    yield Noun.ACCOUNT, item
                elif item.issuer is not None:
                    yield Noun.ISSUER, item
                elif item.rule is not None:
                    yield Noun.RULE, item

    def accounts_with_grants(self) -> dict[str, str]:
        """Return the accounts, by id, with grants of this owner."""
        return {
            item.record.object_id: item.account
            for item in self._recorded
            if item.is_grant and item.account is not None and item.record.owner == self._owner
        }
