"""How long a start takes, and how much memory the processes hold, on a database that exists."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import rows
import servers

_STARTS = 3
_BETWEEN = 0.1  # seconds between two looks at the memory


@dataclass(frozen=True)
class Start:
    """One start: seconds to the first token; MiB under a load of keys, then of passwords.

    ``bare``: the seconds to the first response of the floor, started just before.
    """

    seconds: float
    bare: float
    under_keys: float
    under_passwords: float

    @property
    def ratio(self) -> float:
        """The seconds as a multiple of those of the floor."""
        return self.seconds / self.bare


def measure(folder: Path, *, seconds: float) -> list[Start]:
    """Start Keyosk on SQLite a few times. ``seconds``: how long each load lasts."""
    folder = folder / "starts"
    folder.mkdir()
    url = f"sqlite:///{folder / 'keyosk.db'}"
    with servers.keyosk(folder, url) as server:
        servers.wait_for(server, "/health/ready")
        scene = rows.Scene(server)
    measured = []
    for _ in range(_STARTS):
        began = time.monotonic()
        with servers.floor(folder):
            bare = time.monotonic() - began
        began = time.monotonic()
        with servers.keyosk(folder, url) as server:
            while not _gets_token(server, scene):
                time.sleep(servers.LOOK)
            took = time.monotonic() - began
            by_key, by_password = (
                rows.http_row("", server, [scene.token_request(login)], expected="token")
                for login in (scene.key, scene.password)
            )
            under_keys = _memory_under(by_key, server, 2 * seconds)
            under_passwords = _memory_under(by_password, server, 3 * seconds)
            measured.append(Start(took, bare, under_keys, under_passwords))
    return measured


def _memory_under(row: rows.Row, server: servers.Server, seconds: float) -> float:
    """Return the median of the server's memory while a load goes on, in MiB.

    Not after it: the last two requests may be of one process, which then has a second hash.
    """
    samples = []
    with ThreadPoolExecutor(1) as load:
        running = load.submit(row.measure, row, seconds)
        while not wait([running], timeout=_BETWEEN).done:
            samples.append(server.pss())
        running.result()
    return statistics.median(samples)


def _gets_token(server: servers.Server, scene: rows.Scene) -> bool:
    try:
        servers.call(server, "POST", "/auth/token", login=scene.key, body="")
    except servers.NotThere:
        return False
    return True
