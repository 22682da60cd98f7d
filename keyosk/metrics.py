"""Counters for Prometheus, over all workers of one ``keyosk serve``.

Each process counts in files of its own in one folder, and whichever is asked adds them up. No label
holds what a client chose: names, addresses and secrets are not here.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

# The variable by which prometheus_client is told to share, and where.
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # nosec B108  # in it a folder of this user alone
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def share(name: str) -> None:
    """Have the workers of this process count together, in an emptied folder of this name.

    For the process that starts them, before it does. Raises ``OSError``.
    """
    # In memory: a counter that a full disk has no room for would end its process.
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = parent / f"keyosk-{os.getuid()}-metrics-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    os.environ[_FOLDER] = str(folder)


class Metrics:
    """What one process counts. Where nothing is ``share``d, as in commands, it counts nothing."""

    def __init__(self) -> None:
        self._folder = os.environ.get(_FOLDER)
        if self._folder is None:
            return
        import prometheus_client as client  # noqa: PLC0415 - it decides now whether to share

        registry = client.CollectorRegistry()
        self._requests = client.Counter(
            "keyosk_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = client.Histogram(
            "keyosk_http_request_seconds",
            "Time from a whole request to the beginning of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = client.Counter(
            "keyosk_tokens_issued",
            "Access tokens issued, by what the login was proven with.",
            ("credential", "algorithm"),
            registry=registry,
        )
        self._refused = client.Counter(
            "keyosk_logins_refused",
            "Logins refused: wrong, or throttled before the password was looked at.",
            ("reason",),
            registry=registry,
        )

    def request(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count an answer. ``route``: the address as the URL table has it, or ``none``."""
        if self._folder is not None:
            self._requests.labels(method, route, status).inc()
            self._seconds.labels(route).observe(seconds)

    def token_issued(self, credential: str, algorithm: str) -> None:
        """Count an access token."""
        if self._folder is not None:
            self._tokens.labels(credential, algorithm).inc()

    def login_refused(self, *, throttled: bool) -> None:
        """Count a login that was refused."""
        if self._folder is not None:
            self._refused.labels("throttled" if throttled else "wrong").inc()

    def page(self, accept: str) -> tuple[str, bytes]:
        """All counters of all workers, as media type and text.

        In Prometheus's own format or as OpenMetrics, as the ``Accept`` header prefers.
        """
        from prometheus_client import (  # noqa: PLC0415 - as above
            CollectorRegistry,
            exposition,
            multiprocess,
        )

        registry = CollectorRegistry()
        collector: Any = multiprocess.MultiProcessCollector
        collector(registry, path=self._folder)
        write, media_type = exposition.choose_encoder(accept)
        return media_type, write(registry)
