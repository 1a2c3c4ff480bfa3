"""The external pillar by itself: who gets what, and what is said when something is wrong.

tests/integration/test_layout.py drives the same code through a real salt-master.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltberry_ext.pillar import saltberry

REPO = Path(__file__).resolve().parents[3]
FACTS: dict[str, Any] = {
    "endpoint": "192.168.1.11:6443",
    "ca_hash": "sha256:" + "0" * 64,
    "version": "v1.34.2",
    "nodes": {"cp1": {"ip": "192.168.1.11", "pod_cidr": "10.244.0.0/24"}},
}


def render(path: str) -> Any:
    """Stand for Salt's slsutil.renderer, which needs a loader around it."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


@pytest.fixture
def configure_loader_modules(tmp_path: Path) -> dict[Any, Any]:
    opts = {
        "saltberry": {"state_dir": str(tmp_path / "state")},
        "pillar_roots": {"base": [str(tmp_path / "pillar")]},
    }
    (tmp_path / "state").mkdir()
    (tmp_path / "pillar").mkdir()
    return {saltberry: {"__opts__": opts, "__salt__": {"slsutil.renderer": render}}}


@pytest.fixture
def pillar() -> dict[str, Any]:
    """The pillar as pillar/top.sls gives it: defaults, and the example rack laid over them."""
    defaults: dict[str, Any] = render(str(REPO / "pillar" / "defaults.sls"))
    rack = render(str(REPO / "pillar" / "rack.example.sls"))
    return {**defaults, "rack": {**defaults["rack"], **rack["rack"]}, "nodes": rack["nodes"]}


@pytest.mark.parametrize(
    ("minion_id", "node"),
    [
        ("nfs1", {"roles": ["storage", "master"], "ip": "192.168.1.10", "named": True}),
        ("cp1", {"roles": ["control_plane"], "ip": "192.168.1.11", "named": True}),
        ("pi-01", {"roles": ["worker"], "ip": "192.168.1.21", "named": True}),
        ("pi-99", {"roles": ["worker"], "ip": None, "named": False}),
    ],
)
def test_node(minion_id: str, node: dict[str, Any], pillar: dict[str, Any]) -> None:
    assert saltberry.ext_pillar(minion_id, pillar) == {
        "node": {"id": minion_id, **node},
        "cluster": {},
    }


def test_the_masters_own_run_is_no_node(pillar: dict[str, Any]) -> None:
    assert saltberry.ext_pillar("nfs1.rack.lan_master", pillar) == {"cluster": {}}


@pytest.mark.parametrize("minion_id", ["*", "Pi", "a b", "x\ny", "", "_masters"])
def test_bad_id(minion_id: str, pillar: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a host name; set another id in /etc/salt/minion"):
        saltberry.ext_pillar(minion_id, pillar)


@pytest.mark.parametrize("minion_id", ["pi-01", "nfs1_master"])
def test_bad_rack(minion_id: str, pillar: dict[str, Any]) -> None:
    pillar["nodes"]["pi-01"]["roles"] = ["wroker"]
    pillar["kubernetes"]["version"] = "1.19.0"
    with pytest.raises(ValueError, match="2 problems") as caught:
        saltberry.ext_pillar(minion_id, pillar)
    assert "'wroker' is no role; did you mean 'worker'?" in str(caught.value)
    assert "'1.19.0' is of Kubernetes 1.19" in str(caught.value)


def test_cluster_facts_that_all_may_know(tmp_path: Path, pillar: dict[str, Any]) -> None:
    more = {
        **FACTS,
        "token": "secret",
        "nodes": {"cp1": {**FACTS["nodes"]["cp1"], "token": "secret"}},
    }
    (tmp_path / "state" / "cluster.json").write_text(json.dumps(more), encoding="utf-8")
    assert saltberry.ext_pillar("pi-01", pillar)["cluster"] == FACTS


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', '{"nodes": []}', '{"nodes": {"a": 1}}', "\x00"]
)
def test_damaged_cluster_facts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged") as caught:
        saltberry.cluster_facts(path)
    assert str(path) in str(caught.value)
    assert "salt-run rack.reconcile" in str(caught.value)


def test_no_cluster_yet(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    assert saltberry.cluster_facts(path) == {}
    path.write_text("{}", encoding="utf-8")
    assert saltberry.cluster_facts(path) == {}


def test_unreadable_cluster_facts(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").mkdir()
    with pytest.raises(ValueError, match="cannot be read by the salt-master: Is a directory"):
        saltberry.cluster_facts(tmp_path / "cluster.json")


def test_forgotten_rack_file(tmp_path: Path, pillar: dict[str, Any]) -> None:
    del pillar["rack"]["network"], pillar["nodes"]
    with pytest.raises(
        ValueError, match=r"rack\.sls is missing; copy pillar/rack\.example\.sls to"
    ) as caught:
        saltberry.ext_pillar("pi-01", pillar)
    assert str(tmp_path / "pillar" / "rack.sls") in str(caught.value)


def test_empty_rack_file(tmp_path: Path, pillar: dict[str, Any]) -> None:
    del pillar["rack"]["network"], pillar["nodes"]
    (tmp_path / "pillar" / "rack.sls").write_text("# later\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rack\.sls is empty; copy"):
        saltberry.ext_pillar("pi-01", pillar)


def test_rack_file_that_says_something_else(tmp_path: Path, pillar: dict[str, Any]) -> None:
    del pillar["rack"]["network"], pillar["nodes"]
    (tmp_path / "pillar" / "rack.sls").write_text("prometheus: true\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sets none of the keys that it must set"):
        saltberry.ext_pillar("pi-01", pillar)


def test_half_a_rack_is_judged_by_rackspec(pillar: dict[str, Any]) -> None:
    del pillar["nodes"]
    with pytest.raises(ValueError, match="nodes is missing"):
        saltberry.ext_pillar("pi-01", pillar)


def test_forgotten_defaults(pillar: dict[str, Any]) -> None:
    del pillar["kubernetes"]
    with pytest.raises(ValueError, match=r"defaults\.sls is missing; restore it"):
        saltberry.ext_pillar("pi-01", pillar)


def test_sys_path_stays_clean(pillar: dict[str, Any]) -> None:
    before = (list(sys.path), "rackspec" in sys.modules, "saltberry_rackspec" in sys.modules)
    saltberry.ext_pillar("pi-01", pillar)
    assert (
        list(sys.path),
        "rackspec" in sys.modules,
        "saltberry_rackspec" in sys.modules,
    ) == before


def test_state_dir_has_a_default(monkeypatch: pytest.MonkeyPatch, pillar: dict[str, Any]) -> None:
    asked = []

    def no_facts(path: Path) -> dict[str, Any]:
        asked.append(os.fspath(path))
        return {}

    monkeypatch.delitem(saltberry.__opts__, "saltberry")
    monkeypatch.setattr(saltberry, "cluster_facts", no_facts)
    saltberry.ext_pillar("pi-01", pillar)
    assert asked == ["/var/lib/saltberry/cluster.json"]


def test_it_is_fast(pillar: dict[str, Any]) -> None:
    """It runs for each state run of each node, on a Pi. 50 nodes: about 10 ms on a PC."""
    for n in range(50):
        pillar["nodes"][f"pi-1{n:02}"] = {"ip": f"192.168.1.{100 + n}"}
    saltberry.ext_pillar("pi-01", pillar)
    start = time.process_time()
    for _ in range(10):
        saltberry.ext_pillar("pi-01", pillar)
    assert (time.process_time() - start) / 10 < 0.1
