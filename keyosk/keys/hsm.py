"""Signing keys that are generated and used inside an HSM, by PKCS#11 (OASIS, v2.40).

Owns the sessions with the token: finding it, logging in, generating key pairs, signing, and trying
again after the token was unavailable. Does not own which key signs and when (``signing_keys``). The
only user of python-pkcs11, which is imported only if a module is configured.

SECURITY: a PKCS#11 module has one state per process. The binding starts it with C_Initialize(NULL),
which promises that no two threads call it at once (section 5.4). So one lock of the process
encloses every call. Sessions from before a fork are useless in the child.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeVar

from keyosk import delays
from keyosk.errors import ConfigurationError, Fault, Unavailable
from keyosk.keys import material
from keyosk.keys.material import base64url

#: Stored, encrypted, in place of a private key that is in the HSM under its ``kid``.
REFERENCE: Final = b"pkcs11"
#: Seconds without another attempt after the HSM failed.
REST: Final = 1.0
_RSA_BITS: Final = 3072
#: The DER-encoded names of the curves (RFC 5480 section 2.1.1.1; PKCS#11 v3.0 section 2.3.10).
_P256: Final = bytes.fromhex("06082a8648ce3d030107")
_ED25519: Final = b"\x13\x0cedwards25519"
#: By algorithm: the kind of key, and the mechanisms that generate it and sign with it.
_MECHANISMS: Final[Mapping[str, tuple[str, str, str]]] = {
    "ES256": ("EC", "EC_KEY_PAIR_GEN", "ECDSA"),
    "RS256": ("RSA", "RSA_PKCS_KEY_PAIR_GEN", "SHA256_RSA_PKCS"),
    "PS256": ("RSA", "RSA_PKCS_KEY_PAIR_GEN", "SHA256_RSA_PKCS_PSS"),
    "EdDSA": ("EC_EDWARDS", "EC_EDWARDS_KEY_PAIR_GEN", "EDDSA"),
}

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _Modules:
    """The PKCS#11 modules of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: Increases whenever all sessions end.
        self.era = 0
        self._owners: dict[str, int] = {}
        os.register_at_fork(after_in_child=self._forked)

    def started(self, path: str, *, again: bool) -> Any:
        """Return the initialised module; ``again``: initialise it again, which ends its sessions.

        Raises the binding's errors.
        """
        if path in self._owners and (again or self._owners[path] != os.getpid()):
            self.stop(path)
        module = load_binding().lib(path)
        self._owners[path] = os.getpid()
        return module

    def stop(self, path: str) -> None:
        """Call C_Finalize, even if the module no longer knows this process; ends all sessions."""
        if self._owners.pop(path, None) is not None:
            self.era += 1
            # After a fork, or without its device, a module may report that it was not initialised.
            with suppress(load_binding().PKCS11Error):
                load_binding().lib(path).finalize()

    def _forked(self) -> None:
        self.lock = threading.RLock()  # a thread of the parent may have held the old one
        self.era += 1


_modules: Final = _Modules()


@dataclass(frozen=True, slots=True)
class HsmKey:
    """A private key in the HSM, which can only sign.

    ``hsm``: ``None`` if its settings are missing.
    """

    hsm: "Hsm | None"
    kid: str
    algorithm: str

    def sign(self, content: bytes) -> bytes:
        """Return the signature of a JWS (RFC 7518 section 3, RFC 8037). Raises ``Unavailable``."""
        if self.hsm is None:
            raise Unavailable("The signing key is in an HSM, and the settings for it are missing.")
        delays.before_waiting()
        return self.hsm.sign(self.kid, self.algorithm, content)


class Hsm:
    """One PKCS#11 token of one module in one process, opened at its first use."""

    def __init__(self, module: str, token: str, pin: str) -> None:
        """Configure the HSM. ``module``: the path of its library. ``token``: its label."""
        self._path = module
        self._label = token
        self._pin = pin
        self._session: Any = None
        self._era = -1
        self._keys: dict[str, Any] = {}
        self._mechanisms: frozenset[int] | None = None
        self._refused: ConfigurationError | None = None
        self._rests_until = 0.0

    def check(self) -> None:
        """Open the token when Keyosk starts. Raises ``ConfigurationError``."""
        with _modules.lock:
            self._refused, self._rests_until = None, 0.0
            self._open(again=False)

    def close(self) -> None:
        """Close the module for the whole process. The next use opens it again."""
        with _modules.lock:
            _modules.stop(self._path)
            self._forget()

    def can_make(self, algorithm: str) -> bool:
        """Return whether this token can generate keys for an algorithm. Raises ``Unavailable``."""
        if algorithm not in _MECHANISMS:
            return False

        def read(session: Any) -> frozenset[int]:
            return frozenset(session.token.slot.get_mechanisms())

        if self._mechanisms is None:
            self._mechanisms = self._use(read)
        names = _MECHANISMS[algorithm][1:]
        return {load_binding().Mechanism[name] for name in names} <= self._mechanisms

    def make(self, algorithm: str) -> dict[str, str]:
        """Generate a key pair and return the public key as ``material.public_jwk`` does.

        Raises ``Unavailable``.
        """

        def make(session: Any) -> dict[str, str]:
            public, private = _generate(session, algorithm)
            try:
                numbers = _numbers(public, algorithm)
                jwk = {**numbers, "kid": material.thumbprint(numbers), "use": "sig"}
                jwk["alg"] = algorithm
                material.public_key(jwk)  # ValueError for a key that no verifier would accept
                # SECURITY: some modules accept a template and ignore it.
                attribute = load_binding().Attribute
                if private[attribute.EXTRACTABLE] or not private[attribute.SENSITIVE]:
                    raise ValueError("the token created a key that can be extracted")
                private[attribute.LABEL] = jwk["kid"]
                private[attribute.ID] = jwk["kid"].encode()
            except (load_binding().PKCS11Error, ValueError):
                private.destroy()
                raise
            return jwk

        try:
            return self._use(make)
        except ValueError as error:
            _log.exception("the PKCS#11 token created an unusable key")
            raise Unavailable("The PKCS#11 token does not create usable keys.") from error

    def sign(self, kid: str, algorithm: str, content: bytes) -> bytes:
        """Sign with a key. Raises ``Unavailable``."""
        name = _MECHANISMS[algorithm][2]

        def sign(session: Any) -> bytes:
            binding = load_binding()
            key, mechanism, parameter = self._key(session, kid), binding.Mechanism[name], None
            data = content
            if algorithm == "ES256":  # fewer modules have ECDSA that includes the hash
                data = hashlib.sha256(content).digest()
            elif algorithm == "PS256":
                parameter = (binding.Mechanism.SHA256, binding.MGF.SHA256, 32)
            signature: bytes = key.sign(data, mechanism=mechanism, mechanism_param=parameter)
            return signature

        return self._use(sign)

    def has(self, kid: str) -> bool:
        """Return whether a key is in the token. Raises ``Unavailable``."""
        return self._use(lambda session: bool(_keys_labelled(session, kid)))

    def destroy(self, kid: str) -> None:
        """Destroy a key, if it exists. Raises ``Unavailable``."""
        looked = False

        def destroy(session: Any) -> None:
            nonlocal looked
            private_keys = _keys_labelled(session, kid)
            if not private_keys and not looked:
                # To an old session, a token that was removed may look empty.
                looked = True
                raise load_binding().NoSuchKey
            for key in private_keys:
                key.destroy()
            self._keys.pop(kid, None)

        self._use(destroy)

    # ---- The session -----------------------------------------------------------------------------

    def _use(self, act: Callable[[Any], T]) -> T:
        """Run an action in a session, and again in a new session if it fails.

        Raises ``Unavailable``.
        """
        with _modules.lock:
            if time.monotonic() < self._rests_until:
                raise Unavailable("The PKCS#11 token cannot be used now.")
            failure: Exception | None = None
            for again in (False, True):
                try:
                    return act(self._open(again=again))
                except ConfigurationError as error:  # first, because the binding may be missing
                    failure = error
                except load_binding().PKCS11Error as error:
                    failure = error
                self._forget()
            self._rests_until = time.monotonic() + REST
            _log.error("the PKCS#11 token cannot be used: %s", _message(failure))
            raise Unavailable("The PKCS#11 token cannot be used now.") from failure

    def _open(self, *, again: bool) -> Any:
        """Open a session and log in. Raises ``ConfigurationError``."""
        if self._session is not None and self._era == _modules.era and not again:
            return self._session
        if self._refused is not None:
            raise self._refused
        self._forget()
        try:
            module = _modules.started(self._path, again=again)
            self._session = _logged_in(module.get_token(token_label=self._label), self._pin)
        except load_binding().PKCS11Error as error:
            refusal = ConfigurationError([_fault(error)])
            if refusal.faults[0].field == "KEYOSK_PKCS11_PIN":
                # SECURITY: never again in this process, because a few wrong PINs lock a token
                # permanently.
                self._refused = refusal
            raise refusal from error
        self._era = _modules.era
        return self._session

    def _forget(self) -> None:
        self._session = None
        self._keys.clear()

    def _key(self, session: Any, kid: str) -> Any:
        if kid not in self._keys:
            objects = _keys_labelled(session, kid)
            if len(objects) != 1:
                _log.error("signing key %s is %d times in the PKCS#11 token", kid, len(objects))
                raise Unavailable("The signing key is not in the PKCS#11 token.")
            self._keys[kid] = objects[0]
        return self._keys[kid]


def load_binding() -> ModuleType:
    """Import python-pkcs11. Raises ``ConfigurationError`` if the extra is not installed."""
    try:
        import pkcs11  # noqa: PLC0415 - an extra: most installations have no HSM, and no binding
    except ImportError as error:
        extra = "needs the extra pkcs11: pip install 'keyosk[pkcs11]'"
        raise ConfigurationError([Fault("KEYOSK_PKCS11_MODULE", extra)]) from error
    return pkcs11


def _logged_in(token: Any, pin: str) -> Any:
    try:
        return token.open(rw=True, user_pin=pin)
    except load_binding().UserAlreadyLoggedIn:
        return token.open(rw=True)  # a login is valid for the whole process


def _keys_labelled(session: Any, kid: str) -> list[Any]:
    binding = load_binding()
    kind = binding.ObjectClass.PRIVATE_KEY
    attributes = {binding.Attribute.CLASS: kind, binding.Attribute.LABEL: kid}
    return list(session.get_objects(attributes))


def _generate(session: Any, algorithm: str) -> tuple[Any, Any]:
    binding = load_binding()
    attribute = binding.Attribute
    kind, mechanism, _ = _MECHANISMS[algorithm]
    options = {
        "mechanism": binding.Mechanism[mechanism],
        "capabilities": binding.MechanismFlag.SIGN | binding.MechanismFlag.VERIFY,
        "label": "keyosk, not in use",  # until its kid is known
        # The public half is in the database: it need not stay.
        "public_template": {attribute.TOKEN: False},
        "private_template": {
            attribute.TOKEN: True,
            attribute.PRIVATE: True,
            attribute.SENSITIVE: True,
            attribute.EXTRACTABLE: False,
        },
    }
    key_type = binding.KeyType[kind]
    if kind == "RSA":
        pair: tuple[Any, Any] = session.generate_keypair(key_type, _RSA_BITS, **options)
        return pair
    curve = {attribute.EC_PARAMS: _P256 if kind == "EC" else _ED25519}
    domain = session.create_domain_parameters(key_type, curve, local=True)
    pair = domain.generate_keypair(**options)
    return pair  # noqa: RET504 - the annotation above is for both


def _numbers(public: Any, algorithm: str) -> dict[str, str]:
    """Return the members of the public JWK (RFC 7518 section 6, RFC 8037 section 2)."""
    attribute = load_binding().Attribute
    if _MECHANISMS[algorithm][0] == "RSA":
        modulus, exponent = public[attribute.MODULUS], public[attribute.PUBLIC_EXPONENT]
        strip = (number.lstrip(b"\0") for number in (modulus, exponent))
        n, e = map(base64url, strip)
        return {"kty": "RSA", "n": n, "e": e}
    point = bytes(public[attribute.EC_POINT])
    length = 65 if algorithm == "ES256" else 32
    if len(point) == length + 2:  # a DER octet string, as specified; some modules return it bare
        point = point[2:]
    if algorithm == "ES256":
        x, y = base64url(point[1:33]), base64url(point[33:])
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url(point)}


def _fault(error: Exception) -> Fault:
    """Return what is wrong with the settings, if a token could not be opened."""
    binding = load_binding()
    if isinstance(error, binding.PinLocked):
        return Fault("KEYOSK_PKCS11_PIN", "is locked: too many wrong PINs were tried")
    if isinstance(error, binding.PinIncorrect | binding.PinInvalid | binding.PinLenRange):
        return Fault("KEYOSK_PKCS11_PIN", "is wrong")
    if isinstance(error, binding.NoSuchToken):
        return Fault("KEYOSK_PKCS11_TOKEN", "is not the label of any token of the module")
    if isinstance(error, binding.MultipleTokensReturned):
        return Fault("KEYOSK_PKCS11_TOKEN", "is the label of more than one token")
    return Fault("KEYOSK_PKCS11_MODULE", f"cannot be used: {_message(error)}")


def _message(error: Exception | None) -> str:
    return f"{type(error).__name__} {error}".strip()
