"""Passkeys (WebAuthn Level 3): the options for browsers, and the verification of responses.

The authenticator must verify the user each time, by PIN, fingerprint or face. No attestation is
requested, so any authenticator is accepted.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from keyosk.config.addresses import origin_of
from keyosk.errors import BadCredentials
from keyosk.model import PASSWORD, SEVERAL_FACTORS, Passkey

_REFUSED: Final = "The passkey was not accepted."
#: Longer than any response of a real authenticator.
_LONGEST: Final = 20_000
#: By a key in hardware or in software, with the user present (RFC 8176).
_HARDWARE: Final = "hwk"
_SOFTWARE: Final = "swk"
_USER: Final = "user"
_ONE_DEVICE: Final = "single_device"


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The relying party of passkeys: ``id`` is a host, ``origin`` that of the pages."""

    id: str
    origin: str


def relying_party(issuer: str) -> RelyingParty | None:
    """Return the relying party; ``None`` if the issuer's host is an IP address."""
    url = urlsplit(issuer)
    host = url.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return RelyingParty(host, origin_of(url))
    return None


def options_to_add(
    party: RelyingParty,
    *,
    account_id: str,
    username: str,
    challenge: bytes,
    registered: Collection[Passkey],
) -> str:
    """Return what ``navigator.credentials.create`` takes, as JSON."""
    import webauthn  # noqa: PLC0415 - it slows down each start, and few need it
    from webauthn.helpers import structs  # noqa: PLC0415

    options = webauthn.generate_registration_options(
        rp_id=party.id,
        rp_name="Keyosk",
        user_id=account_id.encode(),
        user_name=username,
        challenge=challenge,
        authenticator_selection=structs.AuthenticatorSelectionCriteria(
            resident_key=structs.ResidentKeyRequirement.DISCOURAGED,
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=_described(registered),
    )
    return webauthn.options_to_json(options)


def options_to_show(
    party: RelyingParty, *, challenge: bytes, registered: Collection[Passkey]
) -> str:
    """Return what ``navigator.credentials.get`` takes, as JSON."""
    import webauthn  # noqa: PLC0415
    from webauthn.helpers import structs  # noqa: PLC0415

    options = webauthn.generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        allow_credentials=_described(registered),
        user_verification=structs.UserVerificationRequirement.REQUIRED,
    )
    return webauthn.options_to_json(options)


def verify_new(
    party: RelyingParty, response: str, *, challenge: bytes
) -> tuple[Passkey, tuple[str, ...]]:
    """Return the passkey that a browser made, and its ``amr``. Raises ``BadCredentials``."""
    import webauthn  # noqa: PLC0415

    credential = _read(response)
    try:
        registration = webauthn.verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            require_user_verification=True,
        )
        _refuse_foreign_frame(credential)
        # Without an attestation the library does not look at it before it is shown.
        webauthn.helpers.decoded_public_key_to_cryptography(
            webauthn.helpers.decode_credential_public_key(registration.credential_public_key)
        )
    # SECURITY: any error of the library refuses the response, which may be forged.
    except Exception as error:
        raise BadCredentials(_REFUSED) from error
    passkey = Passkey(
        credential_id=registration.credential_id,
        public_key=registration.credential_public_key,
        sign_count=registration.sign_count,
    )
    return passkey, _amr(registration.credential_device_type)


def verify_shown(
    party: RelyingParty,
    response: str,
    *,
    account_id: str,
    challenge: bytes,
    registered: Collection[Passkey],
) -> tuple[Passkey, tuple[str, ...]]:
    """Return the registered passkey that was shown, with its new count, and its ``amr``.

    ``registered``: those of the account ``account_id``. Raises ``BadCredentials``, also if its
    signature count did not increase: it was copied.
    """
    import webauthn  # noqa: PLC0415

    credential = _read(response)
    try:
        shown_id = webauthn.base64url_to_bytes(credential["id"])
        (passkey,) = [candidate for candidate in registered if candidate.credential_id == shown_id]
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=passkey.sign_count,
            require_user_verification=True,
        )
        _refuse_foreign_frame(credential)
        handle = credential["response"].get("userHandle")
        if handle and webauthn.base64url_to_bytes(handle) != account_id.encode():
            raise ValueError("this is the passkey of another account")
    # SECURITY: as above.
    except Exception as error:
        raise BadCredentials(_REFUSED) from error
    updated = replace(passkey, sign_count=verified.new_sign_count)
    return updated, _amr(verified.credential_device_type)


def _refuse_foreign_frame(credential: Mapping[str, Any]) -> None:
    """Refuse a response that a page made inside another site's (WebAuthn sections 7.1 and 7.2).

    Raises ``ValueError``, and other errors for a response that was not verified before.
    """
    import webauthn  # noqa: PLC0415

    client_data = json.loads(webauthn.base64url_to_bytes(credential["response"]["clientDataJSON"]))
    if client_data.get("crossOrigin", False) is not False or "topOrigin" in client_data:
        raise ValueError("the page was in a frame of another site")


def _amr(device: str) -> tuple[str, ...]:
    # A key that is shared by several devices is not bound to hardware.
    key = _HARDWARE if device == _ONE_DEVICE else _SOFTWARE
    return PASSWORD, key, _USER, SEVERAL_FACTORS


def _read(response: str) -> dict[str, Any]:
    if len(response) > _LONGEST:
        raise BadCredentials(_REFUSED)
    try:
        parsed = json.loads(response)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise BadCredentials(_REFUSED)
    return parsed


def _described(passkeys: Collection[Passkey]) -> list[Any]:
    from webauthn.helpers import structs  # noqa: PLC0415

    return [structs.PublicKeyCredentialDescriptor(id=passkey.credential_id) for passkey in passkeys]
