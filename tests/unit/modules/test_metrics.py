"""What the exporter on a node is told, what the collector is, and whether it still is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import metrics

SETTINGS: dict[str, Any] = {
    "enabled": True,
    "interval": 30,
    "retention_days": 90,
    "volume": None,
    "influxdb": {"enabled": True, "image": "i:1", "collector_image": "p:2"},
    "grafana": {"enabled": False},
    "metrics_server": {"enabled": False},
}
NODES = {
    "nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master"]},
    "cp1": {"ip": "192.168.1.11", "roles": ["control_plane"]},
    "pi-01": None,
}
CLUSTER = {"nodes": {"cp1": {"ip": "192.168.1.11"}, "pi-01": {"ip": "192.168.1.21"}, "new": {}}}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A node's answers; the renderer shows what it was given."""
    answers: dict[str, Any] = {"address": "192.168.1.21", "found": []}

    def rendered(path: str, default_renderer: str, **values: Any) -> str:
        assert path.startswith("salt://services/metrics/")
        return repr(sorted(values.items()))

    functions = {
        "node.rack_ip": lambda: answers["address"],
        "slsutil.renderer": rendered,
        "volumes.owner": lambda name: 100000,
        "manifests.found": lambda service: answers["found"],
    }
    pillar = {"services": {"metrics": SETTINGS}, "nodes": NODES, "cluster": CLUSTER}
    monkeypatch.setattr(metrics, "__salt__", functions, raising=False)
    monkeypatch.setattr(metrics, "__pillar__", pillar, raising=False)
    monkeypatch.setattr(metrics, "__opts__", {"id": "pi-01"}, raising=False)
    return answers


@pytest.mark.usefixtures("node")
def test_the_exporter_listens_on_the_nodes_address_alone_and_collects_little() -> None:
    arguments = metrics.exporter_arguments()
    assert "--web.listen-address=192.168.1.21:9100" in arguments
    assert "--collector.disable-defaults" in arguments
    assert "--collector.textfile.directory=/var/lib/prometheus/node-exporter" in arguments
    # They go through an environment file of systemd's, in quotes, and are split at blanks.
    assert not any(mark in argument for argument in arguments for mark in "\"\\' `")


def test_without_an_address_in_the_rack_it_is_refused_with_the_way_out(
    node: dict[str, Any],
) -> None:
    node["address"] = None
    with pytest.raises(CommandExecutionError, match=r"nodes\.pi-01\.ip"):
        metrics.exporter_arguments()


def test_the_firmwares_file_is_found_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metrics, "THROTTLED", tmp_path / "get_throttled")
    assert metrics.throttled_file() is None
    (tmp_path / "get_throttled").write_text("0\n")
    assert metrics.throttled_file() == str(tmp_path / "get_throttled")


@pytest.mark.usefixtures("node")
def test_every_node_is_asked_whose_address_is_known_and_only_members_for_pods() -> None:
    collector = metrics.values()["collector"]
    for name, address in (("cp1", "192.168.1.11"), ("pi-01", "192.168.1.21")):
        for port in (9100, 10250):
            target = {"targets": [f"{address}:{port}"], "labels": {"instance": name}}
            assert str(target) in collector
    assert str({"targets": ["192.168.1.10:9100"], "labels": {"instance": "nfs1"}}) in collector
    assert "192.168.1.10:10250" not in collector
    assert "'new'" not in collector


def test_it_is_known_whether_the_collector_was_told_the_nodes_that_there_are(
    node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metrics.current() is False
    told = {
        "kind": "ConfigMap",
        "metadata": {"name": "collector"},
        "data": {"prometheus.yaml": metrics.values()["collector"]},
    }
    node["found"] = [told]
    assert metrics.current() is True
    joined = {"nodes": {**CLUSTER["nodes"], "new": {"ip": "192.168.1.99"}}}
    monkeypatch.setitem(metrics.__pillar__, "cluster", joined)
    assert metrics.current() is False
    off = {**SETTINGS, "influxdb": {**SETTINGS["influxdb"], "enabled": False}}
    monkeypatch.setitem(metrics.__pillar__, "services", {"metrics": off})
    assert metrics.current() is False
    node["found"] = []
    assert metrics.current() is True
