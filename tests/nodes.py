"""Several Keyosk nodes that share a database, behind a real HAProxy.

Each node is a host of its own: a network namespace with an address, where this machine allows it;
else an address of loopback.
"""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from live import LiveServer, free_port
from waiting import until

_SHIFTED: Final = """\
import sys, datetime, time_machine
wrong = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=int(sys.argv.pop(1)))
time_machine.travel(wrong, tick=True).start()
from keyosk.cli import main
main()
"""


@dataclass
class Network:
    """The addresses of a balancer and of hosts, and how a program starts on a host."""

    balancer: str
    hosts: Sequence[str]
    namespaces: Sequence[str] = ()

    def prefix(self, host: int) -> list[str]:
        """What a command on that host begins with."""
        return ["ip", "netns", "exec", self.namespaces[host]] if self.namespaces else []


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Hosts on a network of their own, by namespaces or else on loopback."""
    number = os.getpid() % 200 + 20
    with ExitStack() as stack:
        try:
            hosts_network = _namespaces(stack, number, hosts)
        except (OSError, subprocess.CalledProcessError):
            stack.close()
            loopback = [f"127.{number}.77.{each + 10}" for each in range(hosts)]
            hosts_network = Network(f"127.{number}.77.1", loopback)
        yield hosts_network


def _namespaces(stack: ExitStack, number: int, hosts: int) -> Network:
    bridge, names = f"kysk{number}", [f"kysk{number}-{each}" for each in range(hosts)]
    _ip("link", "add", bridge, "type", "bridge")
    stack.callback(_ip, "link", "del", bridge)
    _ip("addr", "add", f"10.213.{number}.1/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for each, name in enumerate(names):
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
        outside = f"kv{number}-{each}"
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", bridge, "up")
        _ip("-n", name, "addr", "add", f"10.213.{number}.{each + 10}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
    addresses = [f"10.213.{number}.{each + 10}" for each in range(hosts)]
    return Network(f"10.213.{number}.1", addresses, names)


class Node(LiveServer):
    """A Keyosk on a host of its own."""

    def __init__(
        self, net: Network, host: int, folder: Path, *, clock: int, url: str, **settings: str
    ) -> None:
        """``clock``: by how many seconds its clock is wrong."""
        super().__init__(url, folder, **settings)
        folder.mkdir()
        self.address = f"{net.hosts[host]}:8080"
        self.url = f"http://{self.address}"
        self.program = [*net.prefix(host), sys.executable, "-c", _SHIFTED, str(clock)]
        self.environment["KEYOSK_BIND"] = self.address


@dataclass
class Cluster:
    """Nodes behind an HAProxy."""

    url: str
    nodes: list[Node]
    statistics: str
    log: Path
    _known: dict[str, str] = field(default_factory=dict)

    def wait_for(self, node: Node, state: str) -> str:
        """Wait until HAProxy takes a node for ``UP`` or ``DOWN``.

        Returns the status of the node's last response to it, empty if there was none.
        """
        name = f"node{self.nodes.index(node)}"

        def found() -> Mapping[str, str] | None:
            rows = requests.get(self.statistics, timeout=60).text.splitlines()
            states = {row["svname"]: row for row in csv.DictReader(rows)}
            return states[name] if states[name]["status"].startswith(state) else None

        node_row = until(found, log=self.log)
        assert node_row is not None
        return node_row["check_code"]


@contextmanager
def cluster(
    database_url: str, folder: Path, *, clocks: Sequence[int], running: int, **settings: str
) -> Iterator[Cluster]:
    """A node for each of ``clocks``, wrong by so many seconds; ``running`` of them are started."""
    with ExitStack() as stack:
        net = stack.enter_context(network(len(clocks)))
        port, postgres_port, statistics = free_port(), free_port(), free_port()
        parts = urlsplit(database_url)
        through = f"postgresql://{parts.username}@{net.balancer}:{postgres_port}{parts.path}"
        url = f"http://{net.balancer}:{port}"
        nodes = []
        for host, seconds in enumerate(clocks):
            node = Node(
                net,
                host,
                folder / f"node{host}",
                clock=seconds,
                url=through,
                issuer=url,
                workers="2",
                trusted_proxies=net.balancer,
                **settings,
            )
            nodes.append(node)
        servers = "\n".join(f"  server node{n} {node.address}" for n, node in enumerate(nodes))
        (folder / "haproxy.cfg").write_text(
            f"""
defaults
  mode http
  timeout connect 2s
  timeout check 20s
  timeout client 30s
  timeout server 30s
  retries 3
  option redispatch
frontend keyosk
  bind {net.balancer}:{port}
  http-request set-header X-Forwarded-For %[src]
  http-request del-header Forwarded
  default_backend nodes
backend nodes
  balance roundrobin
  option httpchk GET /health/ready
  default-server check inter 500ms fall 1 rise 1
{servers}
frontend statistics
  bind 127.0.0.1:{statistics}
  stats enable
  stats uri /
listen postgresql
  mode tcp
  timeout client 1h
  timeout server 1h
  bind {net.balancer}:{postgres_port}
  server postgresql {parts.hostname}:{parts.port}
"""
        )
        log = folder / "haproxy.log"
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        with log.open("wb") as out:
            haproxy = subprocess.Popen(
                [program, "-db", "-f", str(folder / "haproxy.cfg")], stdout=out, stderr=out
            )
        stack.callback(haproxy.wait, 60)
        stack.callback(haproxy.terminate)
        started = Cluster(url, nodes, f"http://127.0.0.1:{statistics}/;csv;norefresh", log)
        for node in nodes:
            stack.callback(node.stop)
        for node in nodes[:running]:
            node.start()
        for node in nodes[:running]:
            started.wait_for(node, "UP")
        yield started
