"""The Helm chart and the manifests of deploy/: by Helm itself, and by the schemas of Kubernetes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from live import ADMIN_PASSWORD, SECRET_KEY, command, environment

if sys.platform != "linux" or os.uname().machine != "x86_64":
    pytest.skip("no wheel of Helm for this machine", allow_module_level=True)

import helm_python

from processes import execute

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm" / "keyosk"
MANIFESTS: Final = DEPLOY / "kubernetes"
VERSIONS: Final = ("1.27", "1.32", "1.37")
NEEDED: Final = {"issuer": "https://login.example.org", "existingSecret": "keyosk"}
#: Everything that can be switched on, and something for each value that is empty.
EVERYTHING: Final[dict[str, Any]] = NEEDED | {
    "image": {"repository": "registry.example.org/keyosk", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
    "settings": {"KEYOSK_LOG_LEVEL": "warning", "KEYOSK_ARGON2_MEMORY_KIB": 1_048_576},
    "autoscaling": {"enabled": True},
    "service": {"annotations": {"example.org/a": "b"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"example.org/a": "b"},
        "tlsSecret": "login-tls",
    },
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        "databaseTo": [{"ipBlock": {"cidr": "10.1.2.3/32"}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "grafanaDashboard": {"enabled": True},
    "podSecurityContext": {"runAsUser": 1_000_620_000},
    "podAnnotations": {"example.org/a": "b"},
    "podLabels": {"team": "login"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "important",
}
#: Kinds of the Prometheus operator's, not of Kubernetes.
OPERATORS: Final = ("ServiceMonitor/", "PrometheusRule/")
#: What the operator takes of a rule and how it writes times, by its CRD monitoring.coreos.com/v1.
RULE_FIELDS: Final = {
    *("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"),
}
DURATION: Final = re.compile(
    r"(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)"
)
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


def rendered(chart: helm_python.Chart, values: dict[str, Any]) -> dict[str, Manifest]:
    """The objects that Helm makes, by kind and name."""
    files = chart.render(values, name="login", namespace="keyosk")
    manifests = {}
    for name, text in files.items():
        if name.endswith(".yaml"):
            for each in yaml.safe_load_all(text):
                if each is not None:
                    manifests[f"{each['kind']}/{each['metadata']['name']}"] = each
    return manifests


def pod_of(objects: dict[str, Manifest]) -> Manifest:
    pod: Manifest = objects["Deployment/login-keyosk"]["spec"]["template"]["spec"]
    return pod


def environment_of(pod: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


@pytest.mark.parametrize("values", [NEEDED, EVERYTHING], ids=["needed", "everything"])
def test_helm_has_nothing_to_say_against_the_chart(values: dict[str, Any]) -> None:
    lint = helm_python.lint(str(CHART), values, strict=True)
    assert lint["errors"] == []
    assert [each["error"] for each in lint["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [NEEDED, EVERYTHING], ids=["needed", "everything"])
def test_kubernetes_accepts_what_the_chart_makes(
    values: dict[str, Any], version: str, chart: helm_python.Chart
) -> None:
    for name, each in rendered(chart, values).items():
        if not name.startswith(OPERATORS):
            kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_find_what_is_wrong(chart: helm_python.Chart) -> None:
    broken = rendered(chart, NEEDED)["Deployment/login-keyosk"]
    broken["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_the_chart_makes_what_was_asked_for(chart: helm_python.Chart) -> None:
    needed, everything = rendered(chart, NEEDED), rendered(chart, EVERYTHING)
    assert sorted(needed) == [
        "Deployment/login-keyosk",
        "NetworkPolicy/login-keyosk",
        "PodDisruptionBudget/login-keyosk",
        "Service/login-keyosk",
        "ServiceAccount/login-keyosk",
    ]
    assert sorted(everything.keys() - needed.keys()) == [
        "ConfigMap/login-keyosk-dashboard",
        "HorizontalPodAutoscaler/login-keyosk",
        "Ingress/login-keyosk",
        "PrometheusRule/login-keyosk",
        "Service/login-keyosk-metrics",
        "ServiceMonitor/login-keyosk",
    ]
    assert needed["Deployment/login-keyosk"]["spec"]["replicas"] == 2
    assert "replicas" not in everything["Deployment/login-keyosk"]["spec"]
    pod = pod_of(everything)
    assert pod["containers"][0]["image"] == f"registry.example.org/keyosk@sha256:{'0' * 64}"
    assert pod["securityContext"]["runAsUser"] == 1_000_620_000
    assert environment_of(pod)["KEYOSK_ARGON2_MEMORY_KIB"] == "1048576"
    assert environment_of(pod)["KEYOSK_TRUSTED_PROXIES"] == "10.0.0.0/8,fd00::/8"
    ingress = everything["Ingress/login-keyosk"]["spec"]
    assert ingress["tls"] == [{"hosts": ["login.example.org"], "secretName": "login-tls"}]
    assert [each["host"] for each in ingress["rules"]] == ["login.example.org"]


def test_openshift_may_choose_the_users(chart: helm_python.Chart) -> None:
    users = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    context = pod_of(rendered(chart, NEEDED | users))["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_operator_gets_the_alerts_and_grafana_the_dashboard(chart: helm_python.Chart) -> None:
    objects = rendered(chart, EVERYTHING)
    rule = objects["PrometheusRule/login-keyosk"]
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    # tests/test_monitoring_kit.py has promtool and Prometheus read them.
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for group in rule["spec"]["groups"]:
        assert group.keys() == {"name", "rules"}
        for each in group["rules"]:
            assert each.keys() <= RULE_FIELDS
            assert DURATION.fullmatch(each.get("for", "0"))
            texts = {**each["labels"], **each["annotations"]}
            assert all(isinstance(text, str) for text in texts.values()), each["alert"]
    config = objects["ConfigMap/login-keyosk-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["data"] == {"keyosk.json": (DEPLOY / "grafana" / "keyosk.json").read_text()}


def test_the_job_is_the_one_that_the_alerts_look_for(chart: helm_python.Chart) -> None:
    objects = rendered(chart, EVERYTHING)
    label = objects["ServiceMonitor/login-keyosk"]["spec"]["jobLabel"]
    job = objects["Service/login-keyosk-metrics"]["metadata"]["labels"][label]
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    assert set(re.findall(r'job="([^"]*)"', alerts)) == {job}


def test_objects_find_one_another(chart: helm_python.Chart) -> None:
    objects = rendered(chart, EVERYTHING)
    deployment = objects["Deployment/login-keyosk"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    container = pod_of(objects)["containers"][0]
    ports = {each["name"] for each in container["ports"]}
    monitor = objects["ServiceMonitor/login-keyosk"]["spec"]
    metrics = objects["Service/login-keyosk-metrics"]
    policy = objects["NetworkPolicy/login-keyosk"]["spec"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        objects["Service/login-keyosk"]["spec"]["selector"],
        metrics["spec"]["selector"],
        objects["PodDisruptionBudget/login-keyosk"]["spec"]["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod_of(objects)["topologySpreadConstraints"]
        ),
    ):
        assert selector
        assert selector.items() <= labels
    assert monitor["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert not (
        monitor["selector"]["matchLabels"].items()
        <= objects["Service/login-keyosk"]["metadata"]["labels"].items()
    )
    assert [each["port"] for each in monitor["endpoints"]] == [
        each["name"] for each in metrics["spec"]["ports"]
    ]
    assert ports == {"http", "metrics"}
    assert {port["port"] for each in policy["ingress"] for port in each["ports"]} == ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    target = objects["HorizontalPodAutoscaler/login-keyosk"]["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    service = objects["Service/login-keyosk"]["spec"]
    backend = objects["Ingress/login-keyosk"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    assert backend["service"]["port"]["name"] in {each["name"] for each in service["ports"]}


def test_the_pod_fits_the_restricted_pod_security_standard(chart: helm_python.Chart) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for values in (NEEDED, EVERYTHING):
        pod = pod_of(rendered(chart, values))
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {kind for each in pod["volumes"] for kind in each} <= {"name", "secret", "emptyDir"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container["ports"])
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


def test_keyosk_takes_its_settings_from_the_chart(chart: helm_python.Chart, tmp_path: Path) -> None:
    secrets = {
        "database_url": "postgresql://keyosk:secret@db/keyosk",
        "secret_key": SECRET_KEY,
        "admin_password": ADMIN_PASSWORD,
    }
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
    pod = pod_of(rendered(chart, EVERYTHING))
    (mount,) = pod["containers"][0]["volumeMounts"]
    (volume,) = pod["volumes"]
    assert {each["key"] for each in volume["secret"]["items"]} == secrets.keys()
    settings = {
        name: value.replace(mount["mountPath"], str(tmp_path))
        for name, value in environment_of(pod).items()
    }
    result = subprocess.run(
        command("config", "check"), cwd=tmp_path, env=environment() | settings,
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert pod["terminationGracePeriodSeconds"] > int(settings["KEYOSK_SHUTDOWN_DELAY"]) + 30


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({}, "/issuer"),
        ({"issuer": "http://login.example.org"}, "/issuer"),
        ({"issuer": "https://login.example.org/"}, "/issuer"),
        (NEEDED | {"existingSecret": ""}, "/existingSecret"),
        (NEEDED | {"replica": 3}, "replica"),
        (NEEDED | {"replicas": 0}, "/replicas"),
        (NEEDED | {"settings": {"KEYOSK_SECRET_KEY": "a"}}, "KEYOSK_SECRET_KEY"),
        (NEEDED | {"settings": {"KEYOSK_DATABASE_URL_FILE": "a"}}, "KEYOSK_DATABASE_URL_FILE"),
        (NEEDED | {"settings": {"LOG_LEVEL": "a"}}, "LOG_LEVEL"),
        (NEEDED | {"trustedProxies": ["*"]}, "/trustedProxies/0"),
        (NEEDED | {"podSecurityContext": {"runAsUser": 0}}, "/podSecurityContext/runAsUser"),
        (NEEDED | {"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget"),
    ],
)
def test_values_that_cannot_work_are_refused(
    values: dict[str, Any], fault: str, chart: helm_python.Chart
) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(fault)):
        chart.validate_schema(values)


def test_each_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() | {"global"} == schema["properties"].keys()
    for name, value in values.items():
        inner = schema["properties"][name].get("properties")
        if inner is not None:
            assert value.keys() == inner.keys(), name


def test_the_plain_manifests_are_those_of_the_chart() -> None:
    """`make manifests` writes them."""
    program = "import manifests; print(manifests.rendered(), end='')"
    result = execute([sys.executable, "-c", program], cwd=ROOT / "tools", check=True)
    assert (MANIFESTS / "keyosk.yaml").read_text() == result.stdout
    for name in ("keyosk.yaml", "namespace.yaml"):
        for each in yaml.safe_load_all((MANIFESTS / name).read_text()):
            kubernetes_validate.validate(each, VERSIONS[0], strict=True)
            assert each["metadata"].get("namespace", "keyosk") == "keyosk"


def test_the_chart_is_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    assert version is not None
    assert described["version"] == described["appVersion"] == version[1]
    assert [each["newTag"] for each in kustomization["images"]] == [version[1]]
