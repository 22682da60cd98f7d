"""What deploy/ ships for monitoring: alerts, dashboard and their provisioning, on real scrapes."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from keyosk.metrics import FAMILIES
from live import free_port
from processes import execute
from test_metrics import Metered, use_it
from waiting import running, until

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "alerts.yaml"
GRAFANA: Final = DEPLOY / "grafana"
DASHBOARD: Final[dict[str, Any]] = json.loads((GRAFANA / "keyosk.json").read_text())
ALERTS: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
}
NAMES: Final = {
    f"{family.shown_name}{ending}"
    for family in FAMILIES
    for ending in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
}
# With CI set they run, and fail for lack of the program.
IN_CI: Final = bool(os.environ.get("CI"))
needs_promtool = pytest.mark.skipif(
    not (IN_CI or shutil.which("promtool")), reason="no promtool here"
)
needs_prometheus = pytest.mark.skipif(
    not (IN_CI or shutil.which("prometheus")), reason="no Prometheus here"
)

# --- Each alert fires and clears ------------------------------------------------------------------

#: All is well, then something is wrong, then all is well again; in steps of so many minutes.
BEFORE, WRONG, AFTER = 10, 40, 40
STEP: Final = 2
#: An increase per minute, for a counter.
RISES: Final = "rises"

#: What makes each alert fire: series by name, and parts of their labels, with their values.
CAUSES: Final[Mapping[str, Mapping[str, object]]] = {
    "KeyoskDown": {"up": 0},
    "KeyoskNotReady": {"keyosk_up": 0},
    "KeyoskRestarting": {"keyosk_start_timestamp_seconds": RISES},
    "KeyoskWorkersMissing": {"keyosk_workers": 1},
    "KeyoskErrors": {"keyosk_http_requests_total status=500 route=/auth/token method=POST": RISES},
    "KeyoskSlow": {
        "keyosk_http_request_seconds_bucket route=/auth/token le=5.0": RISES,
        "keyosk_http_request_seconds_bucket route=/auth/token le=+Inf": RISES,
    },
    "KeyoskDatabaseDown": {"keyosk_database_up": 0},
    "KeyoskDatabaseConnections": {
        "keyosk_database_connections": 95,
        "keyosk_database_connections_max": 100,
    },
    "KeyoskDatabaseSlow": {
        "keyosk_database_query_seconds_bucket le=5.0": RISES,
        "keyosk_database_query_seconds_bucket le=+Inf": RISES,
    },
    "KeyoskHashingRefused": {"keyosk_hashing_refused_total": RISES},
    "KeyoskHashingBusy": {"keyosk_hashing_waiting": 1_000},
    "KeyoskGuessing": {"keyosk_logins_refused_total reason=wrong": RISES},
    "KeyoskAccountsThrottled": {"keyosk_throttled kind=account": 3},
    # promtool begins at 1970: these are seconds after it.
    "KeyoskKeyRotationOverdue": {
        "keyosk_signing_key_rotation_timestamp_seconds algorithm=ES256": 60
    },
    "KeyoskKeyLaggards": {
        "keyosk_signing_key_laggards algorithm=ES256": 2,
        "keyosk_signing_key_rotation_timestamp_seconds algorithm=ES256": 110 * 60,
    },
    "KeyoskAuditUnsealed": {"keyosk_audit_oldest_unsealed_timestamp_seconds": 20 * 60},
    "KeyoskAuditCheckpointMissing": {"keyosk_audit_checkpoint_lag_rows": 3_000},
    "KeyoskRevocationsMany": {"keyosk_revocations": 20_000},
}


def test_each_alert_has_a_cause_here_and_a_row_in_the_page() -> None:
    assert CAUSES.keys() == ALERTS.keys()
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
    assert re.findall(r"^\| `(Keyosk\w+)` \|", page, re.MULTILINE) == [*ALERTS]


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metered]:
    with Metered(tmp_path_factory.mktemp("kit"), workers="2") as server:
        yield server


@pytest.fixture(scope="module")
def scraped(metered: Metered) -> dict[str, float]:
    """The series of a running Keyosk as Prometheus has them, ``up`` among them."""
    use_it(metered)
    values = {'up{job="keyosk",instance="a:9464"}': 1.0}
    for family in families(metered.page().text):
        for sample in family.samples:
            labels = {"job": "keyosk", "instance": "a:9464", **sample.labels}
            written = ",".join(f'{name}="{value}"' for name, value in labels.items())
            values[f"{sample.name}{{{written}}}"] = sample.value
    return values


@needs_promtool
@pytest.mark.parametrize("alert", CAUSES)
def test_an_alert_fires_and_clears(alert: str, scraped: dict[str, float], tmp_path: Path) -> None:
    """On the series of a real scrape: what is wrong is set, all others stay as they were."""
    looked_at = {name for rule in ALERTS.values() for name in metrics_in(rule["expr"])} | {"up"}
    values = {
        series: f"{value}x{BEFORE + WRONG + AFTER}"
        for series, value in scraped.items()
        if series.partition("{")[0] in looked_at
    }
    for cause, wrong in CAUSES[alert].items():
        changed = [series for series in scraped if is_meant(series, cause)]
        assert changed, f"Keyosk has no series {cause}"
        for series in changed:
            values[series] = timeline(scraped[series], wrong)
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = {BEFORE - 1: [], BEFORE + WRONG - 2: [alert], BEFORE + WRONG + AFTER - 2: []}
    file = tmp_path / "test.yaml"
    file.write_text(
        json.dumps(  # which YAML is a superset of, and quicker to read
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": f"{STEP}m",
                "tests": [
                    {
                        "interval": f"{STEP}m",
                        "input_series": [
                            {"series": series, "values": each} for series, each in values.items()
                        ],
                        "promql_expr_test": [
                            {
                                "expr": firing,
                                "eval_time": f"{step * STEP}m",
                                "exp_samples": [
                                    {"labels": f'{{alertname="{name}"}}', "value": 1}
                                    for name in names
                                ],
                            }
                            for step, names in expected.items()
                        ],
                    }
                ],
            }
        )
    )
    result = execute(["promtool", "test", "rules", file])
    assert result.returncode == 0, result.stdout + result.stderr


def is_meant(series: str, cause: str) -> bool:
    name, *labels = cause.split()
    pairs = [label.split("=", 1) for label in labels]
    return series.startswith(f"{name}{{") and all(f'{n}="{v}"' in series for n, v in pairs)


def timeline(usual: float, wrong: object) -> str:
    """In promtool's notation; a counter keeps what it rose by."""
    if wrong == RISES:
        top = usual + 400 * WRONG
        return f"{usual}x{BEFORE - 1} {usual}+400x{WRONG - 1} {top}x{AFTER}"
    return f"{usual}x{BEFORE - 1} {wrong}x{WRONG - 1} {usual}x{AFTER}"


# --- The dashboard --------------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bkeyosk_\w+", expression))


def test_the_dashboard_and_the_alerts_use_metrics_that_exist() -> None:
    for expression in (*expressions(), *(rule["expr"] for rule in ALERTS.values())):
        assert metrics_in(expression) <= NAMES, expression
    used = {name for each in expressions() for name in metrics_in(each)}
    unused = {f.shown_name for f in FAMILIES if not any(u.startswith(f.shown_name) for u in used)}
    # Times that the alerts look at; the dashboard shows what they are about by rows and ages.
    assert unused == {
        "keyosk_start_timestamp_seconds",
        "keyosk_database_read_timestamp_seconds",
        "keyosk_audit_oldest_unsealed_timestamp_seconds",
        "keyosk_audit_sealed_rows",
        "keyosk_audit_checkpoint_timestamp_seconds",
    }


def test_the_dashboard_is_laid_out_as_grafana_expects() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert [target["refId"] for target in panel["targets"]] == [
            *"ABCDEFGH"[: len(panel["targets"])]
        ]
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounts = dict(
        volume.split(":")[:2][::-1] for volume in compose["grafana"]["volumes"] if "/" in volume
    )
    folder = "/etc/grafana/provisioning"
    provider = yaml.safe_load((DEPLOY / mounts[f"{folder}/dashboards/keyosk.yaml"]).read_text())[
        "providers"
    ][0]
    assert mounts[f"{provider['options']['path']}/keyosk.json"] == "./grafana/keyosk.json"
    source = yaml.safe_load((DEPLOY / mounts[f"{folder}/datasources/prometheus.yaml"]).read_text())[
        "datasources"
    ][0]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose
    rules = dict(v.split(":")[:2][::-1] for v in compose["prometheus"]["volumes"])
    (path,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["rule_files"]
    assert rules[f"/etc/prometheus/{path}"] == "./prometheus/alerts.yaml"


# --- With a real Prometheus -----------------------------------------------------------------------


class Prometheus:
    """Debian's Prometheus with the shipped configuration, but in a hurry."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.folder = folder
        shipped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
        shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = shipped["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (path,) = shipped["rule_files"]
        rules = yaml.safe_load(RULES.read_text())
        for rule in rules["groups"][0]["rules"]:
            rule.pop("for", None)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(shipped))

    def get(self, path: str, **parameters: str) -> Any:
        response = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60).json()
        assert response["status"] == "success", (parameters, response)
        return response["data"]

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"]}

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        with running(command, self.folder / "prometheus.log"):
            # It listens before it can answer.
            until(lambda: requests.get(f"{self.url}/-/ready", timeout=60).ok)
            yield


@needs_prometheus
def test_prometheus_reads_keyosk_and_every_expression_has_data(tmp_path: Path) -> None:
    with Metered(tmp_path, workers="2") as server:
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{server.metrics_port}")
        with prometheus.running():
            until(lambda: prometheus.get("query", query="keyosk_up == 1")["result"], seconds=120)
            use_it(server)
            until(
                lambda: prometheus.get("query", query="count_over_time(up[1m]) > 5")["result"],
                seconds=120,
            )
            rules = prometheus.get("rules")["groups"][0]["rules"]
            assert [rule["name"] for rule in rules] == [*ALERTS]
            assert {rule["health"] for rule in rules} == {"ok"}
            assert prometheus.firing() == set()
            for expression in expressions():
                for name, value in (
                    ("$job", ".*"),
                    ("$instance", ".*"),
                    ("$__rate_interval", "1m"),
                ):
                    expression = expression.replace(name, value)  # noqa: PLW2901 - its values
                assert prometheus.get("query", query=expression)["result"], expression
            server.stop()
            until(lambda: prometheus.firing() == {"KeyoskDown"}, seconds=120)
            server.start()
            until(lambda: prometheus.firing() == set(), seconds=120)


@needs_promtool
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus.yaml", tmp_path)
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
    for path in yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["rule_files"]:
        shutil.copy(RULES, tmp_path / path)
    check = ["promtool", "check", "config", "prometheus.yaml"]
    result = execute(check, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
