"""Second factors of accounts, and recovery codes as their hashes."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import peewee
from peewee import fn

from keyosk.errors import Conflict
from keyosk.model import FactorKind, ListQuery, Passkey, SecondFactor
from keyosk.storage import listing as lists
from keyosk.storage import tables
from keyosk.storage.compiled import parameter
from keyosk.storage.database import Database

_SORTS: Final[lists.Sorts] = {"created_at": tables.SecondFactor.id}
_FACTOR: Final = tables.SecondFactor
_CODE: Final = tables.RecoveryCode


class SecondFactorStore:
    """Reads and writes the tables of second factors and of recovery codes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_enrolled = database.compile(
            _FACTOR.select(_FACTOR.id)
            .where(
                (_FACTOR.account == parameter("account_id"))
                & (_FACTOR.kind != FactorKind.RECOVERY_CODES.value)
            )
            .limit(1)
        )

    def add(self, factor: SecondFactor, *, step: int | None = None) -> None:
        """Insert a factor; ``step``: that of the code that confirmed it. Raises ``Conflict``."""
        passkey = factor.passkey
        try:
            self._database.insert(
                _FACTOR,
                [
                    {
                        "id": factor.id,
                        "account": factor.account_id,
                        "kind": factor.kind.value,
                        "name": factor.name,
                        "created_at": factor.created_at,
                        "last_used_at": factor.last_used_at,
                        "sealed": factor.sealed,
                        "last_step": step,
                        "credential_id": passkey and passkey.credential_id,
                        "public_key": passkey and passkey.public_key,
                        "sign_count": passkey and passkey.sign_count,
                    }
                ],
            )
        except peewee.IntegrityError as error:
            raise Conflict("id", "This second factor was added already.") from error

    def is_enrolled(self, account_id: str) -> bool:
        """Return whether the account has a second factor other than recovery codes."""
        return bool(self._is_enrolled(account_id=account_id))

    def get(self, account_id: str, factor_id: str) -> SecondFactor | None:
        """Return a factor of the account."""
        row = self._database.row(_of(account_id).where(_FACTOR.id == factor_id))
        return None if row is None else _factor(row)

    def of_account(self, account_id: str) -> list[SecondFactor]:
        """Return the factors of the account, the oldest first."""
        return [_factor(row) for row in self._database.rows(_of(account_id).order_by(_FACTOR.id))]

    def page(self, account_id: str, list_query: ListQuery) -> list[SecondFactor]:
        """Return a page of the account's factors."""
        query = lists.page(_of(account_id), list_query, key=_FACTOR.id, sorts=_SORTS, filters={})
        return [_factor(row) for row in self._database.rows(query)]

    def count(self, account_id: str, list_query: ListQuery) -> int:
        """Return the number of the account's factors."""
        return self._database.count(lists.filtered(_of(account_id), list_query, {}))

    def remove(self, factor_id: str) -> None:
        """Delete a factor; for recovery codes, delete all codes."""
        self._database.write(_FACTOR.delete().where(_FACTOR.id == factor_id))

    def use_step(self, factor_id: str, step: int, *, latest: int, now: int) -> bool:
        """Use the code of a time step; returns whether neither it nor a later one was used.

        ``latest``: the last step that a right clock can have used; a later stored step is ignored.
        Of concurrent calls on all nodes, only one gets true.
        """
        taken = _FACTOR.last_step
        is_new = taken.is_null() | (taken < step) | (taken > latest)
        query = _FACTOR.update(last_step=step, last_used_at=now)
        return self._database.write(query.where((_FACTOR.id == factor_id) & is_new)) == 1

    def use_passkey(self, factor_id: str, sign_count: int, *, now: int) -> bool:
        """Record the use of a passkey; returns whether its count has not gone back."""
        # Many authenticators do not count; then it stays 0.
        query = _FACTOR.update(sign_count=sign_count, last_used_at=now)
        is_new = _FACTOR.sign_count < sign_count
        if sign_count == 0:
            is_new = _FACTOR.sign_count == 0
        return self._database.write(query.where((_FACTOR.id == factor_id) & is_new)) == 1

    def add_codes(self, factor_id: str, digests: Collection[bytes]) -> None:
        """Insert recovery codes."""
        rows = [{"digest": digest, "factor": factor_id} for digest in digests]
        self._database.insert(_CODE, rows)

    def use_code(self, factor_id: str, digest: bytes, *, now: int) -> bool:
        """Delete a recovery code; returns whether it existed, because it works once."""
        this_code = (_CODE.digest == digest) & (_CODE.factor == factor_id)
        if self._database.write(_CODE.delete().where(this_code)) != 1:
            return False
        self._database.write(_FACTOR.update(last_used_at=now).where(_FACTOR.id == factor_id))
        return True

    def sealed(self) -> list[SecondFactor]:
        """Return all factors with an encrypted secret."""
        query = _FACTOR.select().where(_FACTOR.sealed.is_null(is_null=False))
        return [_factor(row) for row in self._database.rows(query)]

    def reseal(self, factor_id: str, sealed: bytes) -> None:
        """Write the secret of a factor, encrypted anew."""
        self._database.write(_FACTOR.update(sealed=sealed).where(_FACTOR.id == factor_id))


def _of(account_id: str) -> "peewee.ModelSelect[Any]":
    remaining = _CODE.select(fn.COUNT(_CODE.digest)).where(_CODE.factor == _FACTOR.id)
    query = _FACTOR.select(_FACTOR, remaining.alias("remaining"))
    return query.where(_FACTOR.account == account_id)


def _factor(row: Mapping[str, Any]) -> SecondFactor:
    kind = FactorKind(row["kind"])
    return SecondFactor(
        id=row["id"],
        account_id=row["account"],
        kind=kind,
        name=row["name"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        remaining=row["remaining"] if kind is FactorKind.RECOVERY_CODES else None,
        sealed=None if row["sealed"] is None else bytes(row["sealed"]),
        passkey=_passkey(row) if kind is FactorKind.PASSKEY else None,
    )


def _passkey(row: Mapping[str, Any]) -> Passkey:
    return Passkey(
        credential_id=bytes(row["credential_id"]),
        public_key=bytes(row["public_key"]),
        sign_count=row["sign_count"],
    )
