"""A program that fetches tokens by its own settings, as docs/how-to/token-clients.md has them."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from live import Client, LiveServer, free_port
from people import claims_of, make_key, make_person, make_service
from test_proxies import program
from waiting import running, until

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs/how-to/token-clients.md"


def configured(keyosk: LiveServer, service: str, username: str, secret: Path) -> dict[str, Any]:
    """The page's lines for Prometheus, for a service on this machine."""
    (text,) = re.findall(
        r"^```yaml\n(scrape_configs:\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    lines: dict[str, Any] = yaml.safe_load(
        text.replace("https://login.example.org", keyosk.url)
        .replace("client_id: prometheus", f"client_id: {username}")
        .replace("/etc/prometheus/keyosk-api-key", str(secret))
        .replace("todo:read", f"{service}:read")
        .replace("scheme: https", "scheme: http")
    )
    return lines


def test_prometheus_scrapes_with_a_token(server: LiveServer, admin: Client, tmp_path: Path) -> None:
    seen: list[str] = []

    class Target(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    todo = make_service(admin)
    account = make_person(admin, f"{todo}:read", f"{todo}:write")
    _, secret = make_key(admin, account)
    (tmp_path / "secret").write_text(secret)
    target = ThreadingHTTPServer(("127.0.0.1", 0), Target)
    threading.Thread(target=target.serve_forever, args=(0.05,), daemon=True).start()
    lines = configured(server, todo, account.username, tmp_path / "secret")
    lines["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target.server_port}"]
    lines["global"] = {"scrape_interval": "1s"}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(lines))
    command = [
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{free_port()}",
    ]
    with running(command, tmp_path / "prometheus.log"):
        until(lambda: seen, log=tmp_path / "prometheus.log")
    target.shutdown()
    target.server_close()

    text = seen[0].removeprefix("Bearer ")
    claims = claims_of(text)
    assert (claims["sub"], claims["aud"]) == (account.id, todo)
    assert claims["scope"] == f"{todo}:read"
