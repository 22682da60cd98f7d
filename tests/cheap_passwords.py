"""INSECURE: password hashes a hundred times cheaper than allowed, for tests that ignore the cost.

No setting of Keyosk can choose them. Run as a program, this is the ``keyosk`` command with them.
"""

from keyosk import installation
from keyosk.cli import main
from keyosk.credentials.concurrency import HashingLimit
from keyosk.credentials.password_hashing import Passwords

STORED_AS = "$argon2id$v=19$m=64,t=1,p=1$"
"""How what they hash begins."""


class InsecurelyCheapPasswords(Passwords):
    """What is hashed with the default parameters takes no time; others count as they are."""

    MIN_MEMORY_KIB = 8
    MIN_TIME_COST = 1

    def __init__(
        self,
        *,
        memory_kib: int = 64,
        time_cost: int = 1,
        parallelism: int = 1,
        hashing_limit: HashingLimit | None = None,
    ) -> None:
        if (memory_kib, time_cost) == (Passwords.MIN_MEMORY_KIB, Passwords.MIN_TIME_COST):
            memory_kib, time_cost = 64, 1
        super().__init__(
            memory_kib=memory_kib,
            time_cost=time_cost,
            parallelism=parallelism,
            hashing_limit=hashing_limit,
        )


def install() -> None:
    """Have every installation of this process use them."""
    assert "Passwords" in vars(installation), "what hashes has moved"
    vars(installation)["Passwords"] = InsecurelyCheapPasswords


if __name__ == "__main__":
    install()
    main()
