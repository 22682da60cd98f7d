"""The key set as a value: the keys that sign, the published keys, and their documents."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from keyosk.errors import NotFound
from keyosk.keys import material
from keyosk.keys.hsm import HsmKey
from keyosk.keys.material import PrivateKey, PublicKey
from keyosk.model import COMMON_ALGORITHMS, SigningKey


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs now."""

    kid: str
    algorithm: str
    key: PrivateKey | HsmKey
    published_at: int
    public: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public half of one published key."""

    algorithm: str
    key: PublicKey


@dataclass(frozen=True)
class KeySet:
    """All data about the signing keys, valid from ``made_at`` until ``changes_at``.

    Attributes:
        keys: The published keys; the installation's active key is first.
        every: All keys that ever existed.
        compromised: The number of compromised keys.
    """

    keys: Sequence[SigningKey]
    signers: Mapping[str, Signer]  # by algorithm
    default: Signer
    every: Sequence[SigningKey]
    compromised: int
    made_at: int
    changes_at: int

    @cached_property
    def verifiers(self) -> Mapping[str, Verifier]:
        """The published keys by ``kid``."""
        return {key.kid: verifier_of(key) for key in self.keys}

    @cached_property
    def of_registries(self) -> Mapping[str, str]:
        """Every ``kid``, by the one that version 2 of the container registry uses for it."""
        return {material.libtrust_id(key.public): key.kid for key in self.every}

    @cached_property
    def document(self) -> "Document":
        """The common JWK set (RFC 7517 section 5)."""
        return _document([key for key in self.keys if key.algorithm in COMMON_ALGORITHMS])

    def public_pem(self, kid: str) -> str:
        """Return one published key as PEM (RFC 7468). Raises ``NotFound``."""
        for key in self.keys:
            if key.kid == kid:
                return material.public_pem(key.public)
        raise NotFound("There is no such published key.")

    def document_of(self, algorithm: str | None) -> "Document":
        """Return the JWK set of a service: the common one, or its own if that lacks its algorithm.

        A single unknown ``kty`` makes several verifiers refuse a whole set.
        """
        if algorithm is None:
            return self.document
        if algorithm not in COMMON_ALGORITHMS:
            return _document([key for key in self.keys if key.algorithm == algorithm])
        # The service's own first: python-jose stops at the first key of another type.
        common = [key for key in self.keys if key.algorithm in COMMON_ALGORITHMS]
        return _document(sorted(common, key=lambda key: key.algorithm != algorithm))


@dataclass(frozen=True, slots=True)
class Document:
    """A JWK set as published, with its digest and the ``kid`` of its keys."""

    text: bytes
    digest: str
    kids: tuple[str, ...]


def verifier_of(key: SigningKey) -> Verifier:
    """Return the public key of a key."""
    return Verifier(key.algorithm, material.public_key(key.public))


def _document(keys: Sequence[SigningKey]) -> Document:
    text = json.dumps({"keys": [key.public for key in keys]}, indent=1).encode() + b"\n"
    return Document(text, sha256(text).hexdigest()[:32], tuple(key.kid for key in keys))
