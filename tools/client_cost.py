"""Measures what keyosk-client adds to PyJWT: ``make bench-client``.

For each algorithm, the CPU time of ``Verifier.verify`` over that of a bare ``jwt.decode`` which has
the key at hand and requires the same claims, without and with 100,000 live revocations. The three
are measured in turn, round after round; the median of the rounds' ratios is printed. Only ratios
mean something on another machine.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jwt

from keyosk_client import Verifier

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from client_issuer import AUDIENCE, ISSUER, Issuer, issuer

_ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")
_ROUNDS = 31
_CALLS = 200
_REVOCATIONS = 100_000
_REQUIRED = ["iss", "sub", "aud", "exp", "iat"]


def main() -> None:
    """Measure and print a table for Markdown."""
    print("| algorithm | `jwt.decode`, us | Verifier over it | 100,000 revocations over none |")
    print("| --- | --- | --- | --- |")
    for algorithm in _ALGORITHMS:
        with issuer(algorithm) as keyosk:
            bare, over, revoked = _measure(keyosk)
        print(f"| {algorithm} | {bare * 1e6:.0f} | {over:.2f} | {revoked:.2f} |")


def _measure(keyosk: Issuer) -> tuple[float, float, float]:
    text = keyosk.token()
    few = Verifier(ISSUER, AUDIENCE, poll_interval=3_600)
    few.verify(text)
    end = int(time.time()) + 900
    keyosk.entries = [{"jti": str(number), "expires": end} for number in range(_REVOCATIONS)]
    many = Verifier(ISSUER, AUDIENCE, poll_interval=3_600)
    many.verify(text)
    key = jwt.PyJWK(keyosk.keys[0])
    options: Any = {"require": _REQUIRED}

    def bare() -> None:
        jwt.decode(
            text,
            key,
            algorithms=[keyosk.algorithm],
            issuer=ISSUER,
            audience=AUDIENCE,
            options=options,
        )

    tasks: list[Callable[[], object]] = [
        bare,
        lambda: few.verify(text),
        lambda: many.verify(text),
    ]
    rounds = [[_seconds(task) for task in tasks] for _ in range(_ROUNDS)]
    few.close()
    many.close()
    return (
        median(each[0] for each in rounds),
        median(each[1] / each[0] for each in rounds),
        median(each[2] / each[1] for each in rounds),
    )


def _seconds(task: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(_CALLS):
        task()
    return (time.process_time() - began) / _CALLS


if __name__ == "__main__":
    main()
