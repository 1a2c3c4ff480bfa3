"""The rack's figures as the node exporter reads them."""

from __future__ import annotations

from typing import Any

from saltberry_ext.runners import _figures as figures
from saltberry_ext.runners import _rackplan as rackplan

KEYS = {"nfs1": "accepted", "cp1": "accepted", "pi-01": "accepted", "pi-02": "accepted",
        "stranger": "pending", "no\nhost": "pending"}  # fmt: skip
ROLES = {
    "nfs1": ["storage", "master"],
    "cp1": ["control_plane"],
    "pi-01": ["worker"],
    "pi-02": ["worker"],
    "pi-03": ["worker"],
    "stranger": ["worker"],
}
UP: dict[str, Any] = {"ready": True, "reason": "", "version": "v1.34.2", "ip": "192.168.1.11"}
BOOK = {
    "pi-01": {"attempts": 0, "seconds": {"states": 30.5, "ready": 8}},
    "pi-02": {"attempts": 3, "reason": "no room", "stage": "preflight", "next": 0},
}


def samples() -> dict[str, float]:
    rows = rackplan.rows(
        keys=KEYS,
        roles=ROLES,
        refused=["no\nhost"],
        nodes={"cp1": UP, "pi-01": {**UP, "ready": False}},
        book=BOOK,
        last_known={},
        control_plane="cp1",
        working=False,
        now=1000.0,
    )
    text = figures.text({"nodes": rows}, 1000.0)
    assert text.endswith("\n")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_keys_are_counted_by_state_also_those_of_strangers() -> None:
    found = {name: value for name, value in samples().items() if "_keys" in name}
    assert found == {
        'saltberry_rack_keys{state="accepted"}': 4,
        'saltberry_rack_keys{state="pending"}': 2,
        'saltberry_rack_keys{state="denied"}': 0,
        'saltberry_rack_keys{state="rejected"}': 0,
        'saltberry_rack_keys{state="none"}': 1,
    }


def test_members_are_told_apart_from_those_that_are_none() -> None:
    found = samples()
    ready = {name: value for name, value in found.items() if "_ready" in name}
    assert ready['saltberry_rack_node_ready{node="cp1"}'] == 1
    assert ready['saltberry_rack_node_ready{node="pi-01"}'] == 0
    assert 'saltberry_rack_node_ready{node="nfs1"}' not in ready
    assert found['saltberry_rack_node_joined{node="pi-01"}'] == 1
    assert found['saltberry_rack_node_joined{node="pi-02"}'] == 0


def test_failures_and_the_time_that_the_last_work_took_are_there() -> None:
    found = samples()
    assert found['saltberry_rack_node_failures{node="pi-02"}'] == 3
    assert found['saltberry_rack_node_failures{node="pi-01"}'] == 0
    assert found['saltberry_rack_node_join_seconds{node="pi-01"}'] == 38.5
    assert found["saltberry_rack_last_look_timestamp_seconds"] == 1000


def test_an_id_that_is_no_host_name_gets_into_no_label() -> None:
    assert not any("host" in name for name in samples())
