"""Metrics on a real rack: exporters, collector and InfluxDB run, and the boards' own queries are asked.

Grafana and metrics-server cannot run here (their images are not to be had): their manifests are tried on the
API server in tests/unit/modules/test_metrics.py.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import lifecycle
from lab.rack import CHECKOUT, PILLAR
from tests.lab.conftest import Lab

NODES = ("nfs1", "cp1", "pi-01")
MEMBERS = ("cp1", "pi-01")
BOARDS = CHECKOUT / "salt/services/metrics/boards"
TEXTS = "/var/lib/prometheus/node-exporter"
FIGURES = "/srv/nfs/volumes/influxdb"
STORAGE = {"enabled": True, "volumes": {"influxdb": {"size": "1G"}}}
METRICS = {
    "enabled": True,
    "interval": 10,
    "grafana": {"enabled": False},
    "metrics_server": {"enabled": False},
}
# What a container has not, and a Pi has
FIRMWARE = "50005"
TEMPERATURE = 'node_thermal_zone_temp{zone="0",type="cpu-thermal"} 48.3\n'
HWMON = 'node_hwmon_temp_celsius{chip="thermal_thermal_zone0",sensor="temp1"} 48.3\n'
# and what the exporter of a container leaves out: it has no SD card, and an overlay for its root.
# Two lines in InfluxDB's own words; name, tags, first and second value.
OF_A_REAL_ROOT = (
    ("node_disk_written_bytes_total,job=node,instance=pi-01,device=mmcblk0", 1000, 61000),
    ("node_filesystem_avail_bytes,job=node,instance=pi-01,mountpoint=/", 5e9, 5e9),
)


class Site:
    """The rack, measured."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @functools.cached_property
    def passwords(self) -> dict[str, str]:
        """InfluxDB's accounts."""
        text = self.lab.kubectl("-n", "metrics", "get", "secret", "accounts", "-o", "json")
        return {
            name: base64.b64decode(value).decode()
            for name, value in json.loads(text)["data"].items()
        }

    @functools.cached_property
    def address(self) -> str:
        """Where InfluxDB is inside of the cluster."""
        return self.lab.kubectl(
            "-n", "metrics", "get", "service", "influxdb", "-o", "jsonpath={.spec.clusterIP}"
        )

    def http(self, path: str, account: str | None, **form: str) -> tuple[int, str]:
        """Ask InfluxDB from the control plane; status and body."""
        data = [
            f'data = "{name}={urllib.parse.quote(value, safe="")}"' for name, value in form.items()
        ]
        return self._curl(path, account, data)

    def _curl(self, path: str, account: str | None, data: list[str]) -> tuple[int, str]:
        config = [
            f'url = "http://{self.address}:8086{path}"',
            r'write-out = "\n%{http_code}"',
            *data,
        ]
        if account:
            config.append(f'user = "{account}:{self.passwords[account]}"')
        done = self.lab.control_plane.run(
            "curl", "-s", "-m", "30", "-K", "-", stdin="\n".join(config).encode()
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def write(self, account: str | None, line: str) -> tuple[int, str]:
        """Write a line of figures, as InfluxDB wants it."""
        return self._curl("/write?db=rack", account, [f"data-binary = {json.dumps(line)}"])

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that InfluxDB answers with to whom Grafana is."""
        return self.ask_all([query])[0]

    def ask_all(self, queries: list[str]) -> list[list[dict[str, Any]]]:
        """What InfluxDB answers to each of several queries."""
        status, body = self.http("/query?db=rack", "grafana", q=";".join(queries))
        assert status == 200, body
        results = json.loads(body)["results"]
        assert len(results) == len(queries)
        for query, result in zip(queries, results, strict=True):
            assert "error" not in result, f"{query}: {result['error']}"
        return [list(result.get("series", [])) for result in results]

    def up(self) -> set[tuple[str, str]]:
        """Which jobs reach which nodes now."""
        found = self.ask(
            'SELECT last("value") FROM "up" WHERE time > now() - 1m GROUP BY "job", "instance"'
        )
        return {
            (one["tags"]["job"], one["tags"]["instance"])
            for one in found
            if one["values"][0][1] == 1
        }


ALL_UP = {("node", name) for name in NODES} | {("kubelet", name) for name in MEMBERS}


def apply(lab: Lab, *argv: str) -> dict[str, dict[str, Any]]:
    """`salt '*' state.apply`: what changed or failed, by node and id."""
    return lab.applied(NODES, *argv)


def failed(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{name} {key}": each["comment"]
        for name, states in found.items()
        for key, each in states.items()
        if each["result"] is False
    }


def configure(lab: Lab, before: str, metrics: dict[str, Any]) -> None:
    rack = yaml.safe_load(before)
    rack["services"] = {**rack.get("services", {}), "storage": STORAGE, "metrics": metrics}
    lab.master.write(PILLAR, yaml.safe_dump(rack))


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query of each board: board, panel, query as Grafana would send it."""
    values = {
        "$timeFilter": "time > now() - 10m",
        "$__interval": "1m",
        "$node": "pi-01",
        "$namespace": "(metrics|default|kube-system)",
    }
    for path in sorted(BOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                query = target["query"]
                for name, value in values.items():
                    query = query.replace(name, value)
                yield path.stem, panel["title"], query
        for variable in board["templating"]["list"]:
            yield path.stem, variable["label"], variable["query"]


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Site]:
    """Metrics are on, with InfluxDB's data on a volume of the share."""
    before = lab.master.run("cat", PILLAR).stdout
    configure(lab, before, METRICS)
    try:
        first = apply(lab)
        assert failed(first) == {}
        made = Site(lab)
        lab.run("rack.reconcile", "wait=True")
        lab.wait("all to be measured", lambda: made.up() == ALL_UP, 180, every=3)
        yield made
    finally:
        configure(lab, before, {"enabled": False})
        with contextlib.suppress(AssertionError):
            apply(lab)
        lab.master.write(PILLAR, before)
        lab.kubectl("delete", "namespace", "metrics", "--ignore-not-found")
        lab.kubectl("delete", "persistentvolume", "influxdb", "--ignore-not-found")
        lab.master.run("rm", "-rf", FIGURES)


def test_every_node_and_every_kubelet_is_measured(site: Site) -> None:
    assert site.up() == ALL_UP


def test_the_exporter_answers_on_the_nodes_address_in_the_rack_and_on_no_other(site: Site) -> None:
    for name in NODES:
        node = site.lab.node(name)
        said = node.run("curl", "-s", "-m", "5", f"http://{node.ip}:9100/metrics").stdout
        assert "node_memory_MemAvailable_bytes" in said
        other = node.run("curl", "-s", "-m", "5", "http://127.0.0.1:9100/metrics", check=False)
        assert (other.returncode, other.stdout) == (7, ""), name


def test_kubelets_serve_certificates_that_the_cluster_signed_for_them(site: Site) -> None:
    for name in MEMBERS:
        address = site.lab.node(name).ip
        url = f"https://{address}:10250/healthz"
        ca = "/etc/kubernetes/pki/ca.crt"
        done = site.lab.control_plane.run(
            "curl", "-s", "-m", "5", "--cacert", ca, "-w", "%{http_code}", "-o", "/dev/null", url
        )
        assert done.stdout == "401", "the certificate is good, and who asks is not known"
        shown = site.lab.node(name).run(
            "openssl", "x509", "-noout", "-ext", "subjectAltName",
            "-in", "/var/lib/kubelet/pki/kubelet-server-current.pem",
        ).stdout  # fmt: skip
        assert re.findall(r"(?:DNS|IP Address):(\S+?)(?:,|\s|$)", shown) == [name, address]


def test_a_node_gets_no_certificate_for_another_nodes_address(site: Site) -> None:
    pi, cp1 = site.lab.node("pi-01"), site.lab.control_plane
    pi.run(
        "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", "/tmp/key", "-out", "/tmp/csr",
        "-subj", "/O=system:nodes/CN=system:node:pi-01",
        "-addext", f"subjectAltName=DNS:pi-01,IP:{cp1.ip}",
    )  # fmt: skip
    request = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "forged"},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "key encipherment", "server auth"],
            "request": base64.b64encode(pi.run("cat", "/tmp/csr").stdout.encode()).decode(),
        },
    }
    kubectl = ("kubectl", "--kubeconfig=/etc/kubernetes/kubelet.conf")
    pi.run(*kubectl, "create", "-f", "-", stdin=json.dumps(request).encode())
    try:
        told = site.lab.run("rack.reconcile", "wait=True")
        assert f"IPAddress {cp1.ip}" in str(told["nodes"]), told
        status = site.lab.kubectl("get", "csr", "forged", "-o", "jsonpath={.status}")
        assert status in ("", "{}")
    finally:
        site.lab.kubectl("delete", "csr", "forged")


@pytest.fixture(scope="module")
def busy(site: Site) -> Iterator[str]:
    """A pod that has a processor work."""
    name = "busy"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "loop",
                "image": f"{site.lab.rack.master_ip}:5000/busybox:lab",
                "command": ["busybox", "sh", "-c", "while :; do :; done"],
                "resources": {"limits": {"cpu": "200m", "memory": "32Mi"}},
            }],
        },
    }  # fmt: skip
    site.lab.control_plane.run(
        *lifecycle.KUBECTL, "apply", "-f", "-", stdin=json.dumps(pod).encode()
    )
    try:
        yield name
    finally:
        site.lab.kubectl("delete", "pod", name)


@pytest.fixture(scope="module")
def a_pi(site: Site) -> Iterator[None]:
    """What only a Pi has comes into pi-01's exporter by its folder of texts."""
    pi = site.lab.node("pi-01")
    program = (CHECKOUT / "salt/services/metrics/files/saltberry-throttled").read_text()
    pi.write("/tmp/throttled", FIRMWARE)
    pi.run("sh", "-s", "/tmp/throttled", TEXTS, stdin=program.encode())
    text = "".join(
        f"# TYPE {line.partition('{')[0]} gauge\n{line}" for line in (TEMPERATURE, HWMON)
    )
    pi.write(f"{TEXTS}/lab.prom", text)
    now = int(time.time())
    for series, then, later in OF_A_REAL_ROOT:
        for value, when in ((then, now - 120), (later, now - 60)):
            status, body = site.write("admin", f"{series} value={value} {when}000000000")
            assert status == 204, body
    try:
        yield
    finally:
        pi.run("sh", "-c", f"rm -f {TEXTS}/lab.prom {TEXTS}/saltberry-throttled.prom")


@pytest.mark.usefixtures("busy", "a_pi")
def test_every_query_of_every_board_has_an_answer(site: Site) -> None:
    site.lab.run("drift.check")
    asked = list(queries())
    assert len(asked) > 30

    def unanswered() -> list[tuple[str, str, str]]:
        answers = site.ask_all([query for _, _, query in asked])
        return [each for each, series in zip(asked, answers, strict=True) if not series]

    with contextlib.suppress(AssertionError):
        site.lab.wait("an answer to each", lambda: not unanswered(), 240, every=5)
    assert unanswered() == []


def test_what_a_pod_uses_is_in_the_boards_figures(site: Site, busy: str) -> None:
    by_title = {title: query for board, title, query in queries() if board == "pods"}

    def used(title: str) -> float:
        series = site.ask(by_title[title])
        mine = [one for one in series if one["tags"]["pod"] == busy]
        return float(mine[0]["values"][-1][1]) if mine else 0.0

    site.lab.wait("its processor", lambda: used("Processors used by pod") > 0.02, 120, every=5)
    assert 2**14 < used("Memory used by pod") < 2**25


def test_the_firmwares_bits_have_their_names(site: Site, a_pi: None) -> None:
    pi = site.lab.node("pi-01")
    said = pi.run("cat", f"{TEXTS}/saltberry-throttled.prom").stdout
    values = dict(line.split() for line in said.splitlines() if not line.startswith("#"))
    # 0x50005: too little power and slowed down, now and before
    assert values == {
        **dict.fromkeys(("saltberry_pi_under_voltage", "saltberry_pi_throttled"), "1"),
        **dict.fromkeys(
            ("saltberry_pi_under_voltage_since_boot", "saltberry_pi_throttled_since_boot"), "1"
        ),
        **dict.fromkeys(
            (
                "saltberry_pi_frequency_capped",
                "saltberry_pi_temperature_limited",
                "saltberry_pi_frequency_capped_since_boot",
                "saltberry_pi_temperature_limited_since_boot",
            ),
            "0",
        ),
    }


def test_nobody_reads_or_writes_without_the_right_password(site: Site) -> None:
    line = "up value=0"
    assert site.http("/query?db=rack", None, q="SHOW MEASUREMENTS")[0] == 401
    assert site.write(None, line)[0] == 401
    assert site.write("grafana", line)[0] == 403
    _, body = site.http("/query?db=rack", "collector", q='SELECT * FROM "up" LIMIT 1')
    assert "series" not in body
    _, body = site.http("/query", "grafana", q="DROP DATABASE rack")
    assert "error" in body
    assert (
        site.http("/query", None, q="CREATE USER eve WITH PASSWORD 'e' WITH ALL PRIVILEGES")[0]
        == 401
    )
    status, body = site.http("/query", "admin", q="SHOW USERS")
    assert status == 200
    users = dict(json.loads(body)["results"][0]["series"][0]["values"])
    assert users == {"admin": True, "collector": False, "grafana": False}


def test_figures_are_kept_as_long_as_the_pillar_says(site: Site) -> None:
    _, body = site.http("/query", "admin", q='SHOW RETENTION POLICIES ON "rack"')
    series = json.loads(body)["results"][0]["series"][0]
    found = [dict(zip(series["columns"], values, strict=True)) for values in series["values"]]
    kept = {each["name"]: (each["duration"], each["default"]) for each in found}
    assert kept["kept"] == ("2160h0m0s", True)


def test_passwords_are_in_no_log_and_no_job(site: Site) -> None:
    assert set(site.passwords) == {"admin", "collector", "grafana"}
    for account, word in site.passwords.items():
        assert len(word) >= 32
        places = "/var/cache/salt /var/log/salt /run/log/journal /var/log/journal"
        for name in NODES:
            done = site.lab.node(name).run(
                "sh", "-c", f"grep -rlF -f - {places} 2>/dev/null || true", stdin=word.encode()
            )
            assert done.stdout == "", (account, name)


def test_a_second_apply_changes_nothing(site: Site) -> None:
    assert apply(site.lab, "test=True") == {name: {} for name in NODES}
    assert apply(site.lab) == {name: {} for name in NODES}


def test_a_node_that_the_collector_was_not_told_of_is_told_by_reconcile(site: Site) -> None:
    get = ("-n", "metrics", "get", "configmap", "collector", "-o", "json")
    config = json.loads(site.lab.kubectl(*get))["data"]["prometheus.yaml"]
    pi = site.lab.node("pi-01").ip
    patch = json.dumps({"data": {"prometheus.yaml": config.replace(f"{pi}:9100", f"{pi}:9")}})
    site.lab.kubectl("-n", "metrics", "patch", "configmap", "collector", "--patch", patch)
    site.lab.run("rack.reconcile", "wait=True")
    assert json.loads(site.lab.kubectl(*get))["data"]["prometheus.yaml"] == config


def test_figures_outlive_the_pod(site: Site) -> None:
    query = 'SELECT first("value") FROM "node_load1" WHERE "instance" = \'pi-01\''
    first = site.ask(query)
    site.lab.kubectl("-n", "metrics", "delete", "pod", "-l", "app=influxdb")
    wait = ("-n", "metrics", "rollout", "status", "deployment", "influxdb", "--timeout=120s")
    site.lab.kubectl(*wait)
    assert site.ask(query) == first
    site.lab.wait("figures to come again", lambda: site.up() == ALL_UP, 120, every=3)


def test_off_leaves_the_figures_and_nothing_else(site: Site) -> None:
    lab = site.lab
    before = lab.master.run("cat", PILLAR).stdout
    configure(lab, before, {**METRICS, "enabled": False})
    told = apply(lab, "test=True")
    assert failed(told) == {}
    done = apply(lab)
    assert failed(done) == {}
    assert {name: set(found) for name, found in done.items()} == {
        name: set(found) for name, found in told.items()
    }
    kinds = "deployments,services,configmaps,secrets,networkpolicies,persistentvolumeclaims"
    mine = "--selector=app.kubernetes.io/part-of=metrics"
    left = lab.kubectl("-n", "metrics", "get", kinds, "-o", "name", mine)
    assert left.split() == ["persistentvolumeclaim/influxdb"]
    roles = lab.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name", mine)
    assert roles == ""
    for name in NODES:
        node = lab.node(name)
        for ask in ("is-active", "is-enabled"):
            said = node.run("systemctl", ask, "prometheus-node-exporter", check=False)
            assert said.returncode != 0, (name, said.stdout)
    for name in MEMBERS:
        config = lab.node(name).run("cat", "/var/lib/kubelet/config.yaml").stdout
        assert "serverTLSBootstrap" not in config
    assert lab.master.run("ls", f"{FIGURES}/data").stdout.split() == ["rack"]
    assert apply(lab) == {name: {} for name in NODES}
