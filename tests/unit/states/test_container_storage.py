"""The state of container data: when it moves, when it only tells, when it waits for the master."""

from __future__ import annotations

import time
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.states import container_storage as state

MOVES = {"docker": {"from": "/var/lib/docker", "to": "/srv/containers/docker"}}
CHANGES = {"docker": {"old": "/var/lib/docker", "new": "/srv/containers/docker"}}
PLAN = {
    "bytes": 1234567, "files": 89, "free_bytes": 99999999, "services": ["docker.socket", "docker.service"],
    "running_containers": ["web"], "warnings": ["job was started with --rm"], "problems": [],
}  # fmt: skip


class Node:
    """What the execution module would say, and what it was told to do."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "unfinished": None, "pending": MOVES, "last": None, "is_member": False, "plan": PLAN,
            "roots": {"docker": {}}, "wanted": None, "satisfied": None, "want": None, "purge": {},
            "purge_problems": [], "status": {"old_roots": []},
            "migrate": {"message": "moved", "downtime": 2.5},
        }  # fmt: skip
        self.calls: list[str] = []

    def function(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"test": False, "id": "pi-01"}


@pytest.fixture
def configure_loader_modules(node: Node, opts: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    functions = {f"container_storage.{name}": node.function(name) for name in node.answers}
    return {state: {"__salt__": functions, "__opts__": opts}}


DOES = ("migrate", "purge", "want", "satisfied")


def did(node: Node) -> list[str]:
    return [name for name in node.calls if name in DOES]


def test_a_move_is_made_and_told_with_its_downtime(node: Node) -> None:
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (True, CHANGES)
    assert "down for 2.5 s" in ret["comment"]
    assert did(node) == ["migrate", "satisfied"]


def test_test_mode_tells_bytes_room_services_and_containers_and_does_nothing(
    node: Node, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (None, CHANGES)
    for words in ("1,234,567 bytes in 89 files", "99,999,999 bytes are free", "docker.socket, docker.service",
                  "for a moment: web", "started with --rm"):  # fmt: skip
        assert words in ret["comment"]
    assert did(node) == []


def test_a_target_that_would_be_refused_promises_no_change(
    node: Node, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    node.answers["plan"] = {**PLAN, "problems": ["the disk is full"]}
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (None, {})
    assert ret["comment"] == "would be refused: the disk is full"


def test_a_target_that_is_still_to_be_mounted_promises_the_move(
    node: Node, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    missing = {**PLAN, "problems": ["/srv/containers does not exist"]}
    functions = state.__salt__
    functions["container_storage.plan"] = lambda *_args, mounted=True: (
        PLAN if not mounted else missing
    )
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (None, CHANGES)
    assert "once it is mounted (now: /srv/containers does not exist)" in ret["comment"]
    assert did(node) == []


def test_data_that_is_there_is_left_alone(node: Node) -> None:
    node.answers["pending"] = {}
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert did(node) == []


def test_a_failure_is_told_with_no_change(node: Node) -> None:
    node.answers["migrate"] = CommandExecutionError("the target is full")
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, "the target is full")


def test_a_move_that_failed_is_not_tried_by_the_next_highstate(node: Node) -> None:
    node.answers["last"] = {
        "ok": False,
        "target": "/srv/containers",
        "at": time.time(),
        "error": "no start",
    }
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "no start" in ret["comment"]
    assert "in 60 minutes" in ret["comment"]
    assert did(node) == []
    assert state.managed("/srv/containers", retry_after=0)["result"] is True
    node.answers["last"]["at"] -= 3700
    assert state.managed("/srv/containers")["result"] is True


def test_a_move_that_was_cut_off_is_finished_even_where_nothing_else_is_pending(node: Node) -> None:
    node.answers.update(pending={}, unfinished={"phase": "checking", "target": "/srv/containers"})
    ret = state.managed("/srv/containers")
    assert ret["changes"] == {"unfinished move": {"old": "checking", "new": "finished"}}
    assert did(node) == ["migrate", "satisfied"]


@pytest.mark.parametrize("test", [True, False])
def test_a_member_of_a_cluster_waits_for_the_master(
    node: Node, opts: dict[str, Any], test: bool
) -> None:
    opts["test"] = test
    node.answers["is_member"] = True
    ret = state.managed("/srv/containers")
    assert ret["result"] is (None if test else True)
    assert "master drains this node" in ret["comment"]
    assert did(node) == ([] if test else ["want"])


def test_a_member_in_test_mode_is_told_all_that_the_move_would_do(
    node: Node, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    node.answers["is_member"] = True
    comment = state.managed("/srv/containers")["comment"]
    for words in ("1,234,567 bytes", "docker.service", "for a moment: web", "master drains"):
        assert words in comment


@pytest.mark.parametrize("wanted", [None, {"target": "/srv/containers"}])
def test_a_member_whose_move_cannot_be_done_is_not_drained_for_it(
    node: Node, wanted: dict[str, Any] | None
) -> None:
    node.answers.update(
        is_member=True, wanted=wanted, plan={**PLAN, "problems": ["the disk is full"]}
    )
    ret = state.managed("/srv/containers")
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, "the disk is full")
    # and what was asked for before is taken back
    assert did(node) == (["satisfied"] if wanted else [])


def test_a_member_that_has_asked_already_changes_nothing(node: Node) -> None:
    node.answers.update(is_member=True, wanted={"target": "/srv/containers"})
    assert state.managed("/srv/containers")["changes"] == {}


def test_a_drained_member_moves(node: Node) -> None:
    node.answers["is_member"] = True
    assert state.managed("/srv/containers", drained=True)["changes"] == CHANGES
    assert did(node) == ["migrate", "satisfied"]


@pytest.mark.parametrize("test", [True, False])
def test_a_node_without_engines_is_told_so(node: Node, opts: dict[str, Any], test: bool) -> None:
    opts["test"] = test
    node.answers.update(pending={}, roots={})
    ret = state.managed("/srv/containers")
    assert ret["result"] is (None if test else False)
    assert "neither docker nor containerd" in ret["comment"]


def test_engines_that_are_still_to_come_begin_at_their_own_folders(
    node: Node, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    node.answers.update(pending={}, roots={})
    assert state.managed("local")["result"] is True


OLD = {"old_roots": [{"engine": "docker", "path": "/var/lib/docker", "bytes": 4096}]}


def test_old_folders_are_purged_once_and_only_when_nothing_uses_them(
    node: Node, opts: dict[str, Any]
) -> None:
    assert state.purged("x")["changes"] == {}
    node.answers["status"] = OLD
    opts["test"] = True
    ret = state.purged("x")
    assert (ret["result"], did(node)) == (None, [])
    assert "would be deleted: /var/lib/docker (4,096 bytes)" in ret["comment"]
    opts["test"] = False
    node.answers["purge_problems"] = ["/var/lib/docker is in use: sleep (process 7)"]
    ret = state.purged("x")
    assert (ret["result"], ret["changes"], did(node)) == (False, {}, [])
    node.answers["purge_problems"] = []
    ret = state.purged("x")
    assert ret["changes"] == {"purged": {"old": ["/var/lib/docker"], "new": None}}
    assert did(node) == ["purge"]


def test_purging_with_the_move_comes_after_it(node: Node) -> None:
    node.answers["status"] = OLD
    state.managed("/srv/containers", purge_old=True)
    assert did(node) == ["migrate", "satisfied", "purge"]
