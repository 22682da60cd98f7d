"""keyosk-client: what a verification costs, in calls, which are the same on every machine."""

import sys
import time
from collections.abc import Callable
from typing import Any

import jwt

from client_issuer import AUDIENCE, ISSUER, issuer
from keyosk_client import Verifier


def calls(task: Callable[[], object]) -> int:
    """The number of Python and C functions that a task calls, the second time."""
    task()
    count = 0

    def counted(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        task()
    finally:
        sys.setprofile(None)
    return count


def test_a_verification_adds_little_to_pyjwt_and_nothing_for_each_revocation() -> None:
    with issuer() as keyosk:
        text = keyosk.token()
        key = jwt.PyJWK(keyosk.keys[0])

        def bare() -> None:
            jwt.decode(text, key, algorithms=["ES256"], issuer=ISSUER, audience=AUDIENCE)

        ratios = []
        for entries in (1, 100_000):
            end = int(time.time()) + 900
            keyosk.entries = [{"jti": str(number), "expires": end} for number in range(entries)]
            verifier = Verifier(ISSUER, AUDIENCE, poll_interval=3_600)
            ratios.append(calls(lambda verifier=verifier: verifier.verify(text)))  # type: ignore[misc]
            verifier.close()
    assert ratios[0] == ratios[1]
    # 43 when this was written. The most expensive step is the signature, which both make.
    assert ratios[0] - calls(bare) <= 50
