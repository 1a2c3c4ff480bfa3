"""The difference between the rack wanted and the rack as it is, and what people are told of it."""

from __future__ import annotations

from typing import Any

import pytest
from saltberry_ext.runners import _rackplan as rackplan

ROLES = {
    "cp1": ["control_plane"],
    "nfs1": ["storage", "master"],
    "pi-01": ["worker"],
    "pi-02": ["worker"],
}
UP = {"ready": True, "reason": "", "version": "v1.34.2", "ip": "192.168.1.11"}
DOWN = {"ready": False, "reason": "cni not initialized", "version": "v1.34.2", "ip": "192.168.1.21"}


def actions(nodes: dict[str, Any] | None, waiting: tuple[str, ...] = ()) -> dict[str, str]:
    steps = rackplan.plan(ROLES, nodes, "cp1", waiting)
    return {name: step.action for name, step in steps.items()}


def test_before_the_cluster_only_the_control_plane_is_worked_on() -> None:
    assert actions(None) == {"cp1": "join", "nfs1": "outside", "pi-01": "wait", "pi-02": "wait"}


def test_workers_follow_as_soon_as_the_api_server_knows_the_control_plane() -> None:
    assert actions({"cp1": UP})["pi-01"] == "join"
    # not Ready yet, e.g. its pod network is missing: the workers need not wait for that
    assert actions({"cp1": DOWN}) == {
        "cp1": "mend", "nfs1": "outside", "pi-01": "join", "pi-02": "join",
    }  # fmt: skip


def test_members_that_are_ready_are_left_alone() -> None:
    assert actions({"cp1": UP, "pi-01": UP, "pi-02": DOWN}) == {
        "cp1": "ready", "nfs1": "outside", "pi-01": "ready", "pi-02": "mend",
    }  # fmt: skip


def test_a_pause_holds_for_its_own_node_only() -> None:
    assert actions({"cp1": UP}, ("pi-01",)) == {
        "cp1": "ready", "nfs1": "outside", "pi-01": "later", "pi-02": "join",
    }  # fmt: skip
    # one that made it to Ready by itself is done, pause or not
    assert actions({"cp1": UP, "pi-01": UP}, ("pi-01",))["pi-01"] == "ready"


def test_a_control_plane_whose_key_is_not_accepted_is_named() -> None:
    steps = rackplan.plan({"pi-01": ["worker"]}, None, "cp1")
    assert steps["pi-01"].action == "wait"
    assert "key of cp1 is not accepted" in steps["pi-01"].reason


def test_the_control_plane_comes_first() -> None:
    names = list(rackplan.plan({"a-1": ["worker"], "cp1": ["control_plane"]}, None, "cp1"))
    assert names == ["cp1", "a-1"]


def rows(**changed: Any) -> dict[str, dict[str, Any]]:
    facts: dict[str, Any] = {
        "keys": dict.fromkeys(ROLES, "accepted"),
        "roles": ROLES,
        "refused": (),
        "nodes": {"cp1": UP, "pi-01": UP},
        "book": {},
        "last_known": {"cp1": {"ip": "192.168.1.11"}, "pi-01": {"ip": "192.168.1.21"}},
        "control_plane": "cp1",
        "working": False,
        "now": 1000.0,
    }
    return {row["id"]: row for row in rackplan.rows(**{**facts, **changed})}


def test_every_row_has_every_column() -> None:
    found = rows(keys={"cp1": "accepted", "*": "pending"}, refused={"*"})
    assert len({tuple(row) for row in found.values()}) == 1


def test_a_ready_node_needs_no_words() -> None:
    row = rows()["pi-01"]
    assert (row["joined"], row["ready"], row["version"], row["reason"]) == (
        True,
        True,
        "v1.34.2",
        "",
    )


def test_a_node_without_a_part_in_kubernetes_is_neither_joined_nor_not() -> None:
    row = rows()["nfs1"]
    assert (row["role"], row["joined"], row["ready"], row["reason"]) == (
        "storage,master",
        None,
        None,
        "",
    )


def test_an_api_server_that_is_silent_is_said_and_the_last_facts_are_shown() -> None:
    row = rows(nodes=None)["pi-01"]
    assert (row["joined"], row["ready"], row["ip"]) == (True, None, "192.168.1.21")
    assert row["reason"] == "the API server on cp1 does not answer"
    assert rows(nodes=None)["pi-02"]["joined"] is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("pending", "salt-key -a pi-02"),
        ("denied", "new card"),
        ("rejected", "salt-key -d pi-02"),
        ("none", "never seen"),
    ],
)
def test_a_key_that_is_not_accepted_says_what_to_do(key: str, words: str) -> None:
    row = rows(keys={**dict.fromkeys(ROLES, "accepted"), "pi-02": key})["pi-02"]
    assert words in row["reason"]
    assert row["key"] == key


def test_a_member_without_a_key_is_not_called_unseen() -> None:
    row = rows(keys={}, nodes={"pi-02": DOWN})["pi-02"]
    assert "no key of it" in row["reason"]


def test_a_failure_says_its_stage_its_reason_and_the_next_try() -> None:
    record = {"attempts": 3, "last": 900.0, "next": 1300.0, "stage": "states", "reason": "no space"}
    row = rows(book={"pi-02": record})["pi-02"]
    assert row["reason"] == "states: no space (failed 3 times; again in 5 min)"
    assert (row["attempts"], row["last"], row["next"], row["stage"]) == (3, 900.0, 1300.0, "states")


def test_a_node_in_the_works_says_for_how_long() -> None:
    record = {"attempts": 1, "last": 960.0, "running": True, "reason": "interrupted"}
    assert rows(book={"pi-02": record}, working=True)["pi-02"]["reason"] == "being set up for 40 s"
    assert "interrupted" in rows(book={"pi-02": record})["pi-02"]["reason"]


def test_a_member_that_is_not_ready_says_why() -> None:
    assert (
        rows(nodes={"cp1": UP, "pi-01": DOWN})["pi-01"]["reason"]
        == "not Ready: cni not initialized"
    )


def test_a_node_that_moves_says_how_far_it_is() -> None:
    move = {"phase": "copying", "bytes_done": 3.2e9, "bytes_total": 8e10, "rate": 4.5e7}
    row = rows(moves={"pi-01": move})["pi-01"]
    assert row["ready"] is True
    assert row["reason"] == "moves its container data: copying, 3.2 GB of 80.0 GB (45.0 MB/s)"
    assert rows(moves={"pi-01": {}})["pi-01"]["reason"] == "moves its container data"


def test_a_failed_move_is_said_of_a_node_that_is_ready() -> None:
    record = {
        "work": "move",
        "stage": "move",
        "reason": "the disk is full",
        "attempts": 1,
        "next": 100,
    }
    row = rows(book={"pi-01": record}, now=0)["pi-01"]
    assert row["reason"].startswith("container data not moved: move: the disk is full (again in ")
    assert rows(book={"pi-01": {**record, "work": "join"}})["pi-01"]["reason"] == ""
    rebooted = rows(book={"pi-01": {**record, "work": "reboot"}}, now=0)["pi-01"]
    assert rebooted["reason"].startswith("not rebooted: move: the disk is full (again in ")


def test_a_ready_node_that_takes_no_pods_says_who_closed_it() -> None:
    closed = {**UP, "schedulable": False}
    assert "kubectl uncordon" in rows(nodes={"cp1": UP, "pi-01": closed})["pi-01"]["reason"]
    ours = {**closed, "drained_for": "container data moves"}
    row = rows(nodes={"cp1": UP, "pi-01": ours})["pi-01"]
    assert row["reason"] == "takes no pods: container data moves"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (4.7e6, "4.7 MB"), (8.01e10, "80.1 GB"), (5e12, "5.0 TB")],
)
def test_sizes(count: float, text: str) -> None:
    assert rackplan.size(count) == text


def test_an_id_that_is_no_host_name_is_named_and_that_is_all() -> None:
    row = rows(keys={"a\nb": "accepted"}, refused={"a\nb"})["a\nb"]
    assert (row["role"], row["joined"]) == (None, False)
    assert "host name" in row["reason"]


def test_the_table_keeps_hostile_ids_on_one_line() -> None:
    document = {
        "nodes": list(rows(keys={"a\x1b[2J\nb": "pending"}, refused={"a\x1b[2J\nb"}).values())
    }
    text = rackplan.table(document)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 1 + len(document["nodes"])


def test_the_table_shows_problems_of_the_pillar() -> None:
    text = rackplan.table({"nodes": [], "problems": ["nodes.cp1.ip is missing"]})
    assert text.splitlines()[-1] == "! nodes.cp1.ip is missing"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (42.4, "42 s"), (300, "5 min"), (36000, "10 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert rackplan.ago(seconds) == text
