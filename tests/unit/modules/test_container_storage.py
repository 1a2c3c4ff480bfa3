"""What the move finds out before it touches anything, on a node whose systemd is told by the test.

The move itself, with real engines, is in tests/lab/test_container_storage.py.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import container_storage as storage
from saltberry_ext.utils import (
    container_engines,
    copy_target,
    engine_config,
    move_journal,
    tree_copy,
)

UTILS = (container_engines, copy_target, engine_config, move_journal, tree_copy)
DOCKERD = "/usr/sbin/dockerd -H fd://"


class Node:
    """systemd's word on the engines, and a folder for their files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.units: dict[str, dict[str, str]] = {}
        for engine, command in (("docker", DOCKERD), ("containerd", "/usr/bin/containerd")):
            (root / engine).mkdir()
            config = {"docker": "--config-file", "containerd": "--config"}[engine]
            self.install(engine, f"{command} {config} {root}/{engine}.conf")

    def install(self, engine: str, command: str, more: str = "") -> None:
        unit = self.root / f"{engine}.service"
        unit.write_text(f"[Service]\nExecStart={command}\n{more}")
        self.units[f"{engine}.service"] = {
            "LoadState": "loaded", "ActiveState": "inactive", "FragmentPath": str(unit),
            "DropInPaths": "", "MainPID": "0",
        }  # fmt: skip

    def config(self, engine: str, text: str) -> None:
        (self.root / f"{engine}.conf").write_text(text)

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        if argv[0] != "systemctl":
            done = subprocess.run(argv, capture_output=True, text=True)
            return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        if argv[1] == "is-active":
            states = [self.units.get(unit, {}).get("ActiveState", "inactive") for unit in argv[2:]]
            return {"retcode": 3, "stdout": "\n".join(states), "stderr": ""}
        if argv[1] == "daemon-reload":
            return {"retcode": 0, "stdout": "", "stderr": ""}
        assert argv[1] == "show", argv
        unknown = {"LoadState": "not-found", "ActiveState": "inactive"}
        found = [self.units.get(unit, unknown) for unit in argv[2:-1]]
        shown = ["\n".join(f"{key}={value}" for key, value in unit.items()) for unit in found]
        return {"retcode": 0, "stdout": "\n\n".join(shown), "stderr": ""}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(storage, "_DIRECTORY", str(tmp_path / "journal"))
    monkeypatch.setattr(storage, "_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(storage, "_UNITS", str(tmp_path / "units"))
    defaults = {engine: str(tmp_path / engine) for engine in storage.ENGINES}
    monkeypatch.setattr(engine_config, "DEFAULT_ROOTS", defaults)
    return Node(tmp_path)


def late(module: Any, name: str) -> Callable[..., Any]:
    """A function as it is when it is called: a test may have put another in its place."""
    return lambda *given, **named: getattr(module, name)(*given, **named)  # noqa: PLW0108


@pytest.fixture
def configure_loader_modules(node: Node) -> dict[Any, dict[str, Any]]:
    utils = {
        f"{module.__name__.rsplit('.', 1)[-1]}.{name}": late(module, name)
        for module in UTILS
        for name in dir(module)
        if not name.startswith("_") and inspect.isfunction(getattr(module, name))
    }
    functions = {"cmd.run_all": node.run_all, "event.send": lambda *_: True}
    return {storage: {"__salt__": functions, "__utils__": utils, "__opts__": {"id": "pi-01"}}}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(copy_target, "path_problems", lambda *_: [])
    monkeypatch.setattr(copy_target, "overlay_problem", lambda *_: "")
    return folder


# --- where the data is --------------------------------------------------------------------------


def test_folders_come_from_the_command_line_then_the_file_then_the_default(node: Node) -> None:
    assert storage.roots()["docker"] == {"root": f"{node.root}/docker", "root_from": "default"}
    node.config("docker", '{"data-root": "/mnt/a"}')
    node.config("containerd", 'version = 2\nroot = "/mnt/b"\n')
    assert storage.roots() == {
        "docker": {"root": "/mnt/a", "root_from": "docker.conf"},
        "containerd": {"root": "/mnt/b", "root_from": "containerd.conf"},
    }
    node.install("docker", f"{DOCKERD} -g /mnt/c")
    assert storage.roots()["docker"] == {"root": "/mnt/c", "root_from": "unit"}


def test_an_engine_that_is_not_installed_has_no_folder(node: Node) -> None:
    del node.units["docker.service"]
    assert list(storage.roots()) == ["containerd"]
    assert list(storage.pending("/srv/x")) == ["containerd"]


def test_links_on_the_way_make_no_second_move(node: Node, disk: Path) -> None:
    (node.root / "link").symlink_to(disk)
    node.config("docker", json.dumps({"data-root": str(disk / "docker")}))
    assert storage.pending(str(node.root / "link"), ["docker"]) == {}


def test_an_engine_that_nobody_knows_is_refused() -> None:
    with pytest.raises(CommandExecutionError, match="podman: no such engine"):
        storage.targets("local", ["podman"])


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_says_what_would_move_and_changes_nothing(node: Node, disk: Path) -> None:
    (node.root / "docker/image").write_bytes(b"x" * 5000)
    before = sorted(node.root.rglob("*"))
    plan = storage.plan(str(disk))
    assert plan["problems"] == []
    assert plan["to"] == {"docker": f"{disk}/docker", "containerd": f"{disk}/containerd"}
    assert plan["bytes"] >= 5000
    assert plan["files"] >= 3
    assert sorted(node.root.rglob("*")) == before


def test_a_plan_for_a_disk_that_is_still_to_be_mounted_says_how_much_would_move(node: Node) -> None:
    (node.root / "docker/image").write_bytes(b"x" * 5000)
    plan = storage.plan("/srv/not-yet", mounted=False)
    assert plan["problems"] == []
    assert plan["bytes"] >= 5000
    assert plan["files"] >= 3
    assert plan["free_bytes"] is None


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (lambda node: node.config("docker", "{"), "cannot be used: it is no valid JSON"),
        (lambda node: node.config("containerd", "a ="), "cannot be used: it is no valid TOML"),
        (lambda node: node.units.clear(), "neither docker nor containerd is installed"),
        (lambda node: (node.root / "docker").rmdir(), "does not exist; start docker once"),
        (
            lambda node: node.install(
                "docker", f"{DOCKERD} $OPTS", 'Environment="OPTS=--data-root /mnt/x"\n'
            ),
            "takes its folder from a variable set in Environment=",
        ),
        (
            lambda node: node.units["docker.service"].update(ActiveState="failed"),
            "docker has failed and does not run",
        ),
    ],
)
def test_whatever_was_wrong_before_is_named(node: Node, disk: Path, setup: Any, words: str) -> None:
    setup(node)
    assert words in "\n".join(storage.plan(str(disk))["problems"])
    with pytest.raises(CommandExecutionError) as raised:
        storage.migrate(str(disk))
    assert words in str(raised.value)
    assert storage.unfinished() is None
    assert list(disk.iterdir()) == []


def test_a_disk_too_small_names_both_sizes(
    node: Node, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_target, "room", lambda _: {"bytes": 5 << 20, "files": 7})
    (problem,) = storage.plan(str(disk))["problems"]
    assert "has 5 MiB free, 128 MiB are needed" in problem
    monkeypatch.setattr(copy_target, "room", lambda _: {"bytes": 5 << 40, "files": 1})
    for number in range(20):
        (node.root / f"docker/{number}").write_text("")
    (problem,) = storage.plan(str(disk))["problems"]
    assert "inodes for 1 more files" in problem


def test_a_strangers_data_is_never_written_over(node: Node, disk: Path) -> None:
    (disk / "docker").mkdir()
    (disk / "docker/theirs").write_text("")
    (problem,) = storage.plan(str(disk))["problems"]
    assert "have not put there" in problem
    copy_target.own(str(disk), "pi-07", "m")
    assert "holds the container data of pi-07" in storage.plan(str(disk))["problems"][0]
    copy_target.own(str(disk), "pi-01", "another card")
    assert "earlier installation of this node" in storage.plan(str(disk))["problems"][0]


def test_what_a_move_of_our_own_left_there_is_brought_up_to_date(node: Node, disk: Path) -> None:
    (disk / "docker").mkdir()
    (disk / "docker/ours").write_text("")
    old = [{"engine": "docker", "path": f"{disk}/docker", "at": 1.0}]
    move_journal.at(storage._DIRECTORY).save_history({"old_roots": old, "last": None})
    assert storage.plan(str(disk))["problems"] == []


@pytest.mark.parametrize(
    ("kind", "point", "own"),
    [
        ("overlay", "overlay2/abc/merged", True),
        ("tmpfs", "containers/abc/mounts/shm", True),
        ("ext4", "volumes/plugin/_data", True),
        ("ext4", "volumes/disk/_data", False),
        ("ext4", "overlay2", False),
        ("nfs4", "volumes", False),
        ("tmpfs", "overlay2", False),
    ],
)
def test_mounts_that_docker_makes_itself_are_told_from_those_that_would_be_lost(
    node: Node, kind: str, point: str, own: bool
) -> None:
    (node.root / "docker/volumes/plugin").mkdir(parents=True)
    (node.root / "docker/volumes/plugin/opts.json").write_text("{}")
    mount = {"kind": kind, "point": f"{node.root}/docker/{point}", "source": "x"}
    assert storage._engines_own(mount, f"{node.root}/docker") is own


# --- the files that change ----------------------------------------------------------------------


def test_a_flag_on_the_command_line_is_replaced_by_a_setting(node: Node, disk: Path) -> None:
    config = f"{node.root}/docker.conf"
    node.install("docker", f"{DOCKERD} --config-file {config} --data-root={node.root}/docker $OPTS")
    node.config("docker", '{"debug": true}')
    files = storage._new_files({"docker": {"from": "", "to": f"{disk}/docker"}}, str(disk))
    assert files[config]["new"] == f'{{"debug": true, "data-root": "{disk}/docker"}}'
    (drop_in,) = [path for path in files if path.endswith("zz-saltberry-storage.conf")]
    assert f"ExecStart={DOCKERD} --config-file {config} $OPTS\n" in files[drop_in]["new"]


def test_a_flag_in_a_drop_in_behind_ours_is_refused(node: Node, disk: Path) -> None:
    late = node.root / "zzz.conf"
    late.write_text(f"[Service]\nExecStart=\nExecStart={DOCKERD} --data-root={node.root}/docker\n")
    node.units["docker.service"]["DropInPaths"] = str(late)
    with pytest.raises(ValueError, match="comes after our own drop-in"):
        storage._new_files({"docker": {"from": "", "to": f"{disk}/docker"}}, str(disk))


def test_a_target_behind_a_link_is_waited_for_where_it_is_mounted(node: Node, disk: Path) -> None:
    (node.root / "link").symlink_to(disk)
    moves = {"docker": {"from": "", "to": f"{disk}/docker"}}
    files = storage._new_files(moves, f"{node.root}/link")
    (drop_in,) = [path for path in files if path.endswith("zz-saltberry-storage.conf")]
    assert f"RequiresMountsFor={disk}\n" in files[drop_in]["new"]
    assert f"AssertPathExists={disk}/.saltberry-storage\n" in files[drop_in]["new"]


def begun(node: Node, disk: Path) -> Any:
    """A move of docker whose copy is done and whose engines are still to be stopped."""
    moves = {"docker": {"from": f"{node.root}/docker", "to": f"{disk}/docker"}}
    record = {
        "moves": moves, "target": str(disk), "phase": "copying", "id": "1",
        "files": storage._new_files(moves, str(disk)),
    }  # fmt: skip
    return storage._Move(move_journal.at(storage._DIRECTORY), record, 0)


def test_what_a_killed_run_has_asked_of_systemd_is_waited_for(
    node: Node, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    docker = node.units["docker.service"]
    docker["ActiveState"] = "deactivating"

    def sleep(_: float) -> None:
        docker["ActiveState"] = "inactive" if len(asked) == 3 else "deactivating"
        asked.append(docker["ActiveState"])

    monkeypatch.setattr(storage.time, "sleep", sleep)
    storage._wait_settled()
    assert asked == ["deactivating"] * 3 + ["inactive"]
    # one that never comes to rest is told by the plan, not waited for
    monkeypatch.setattr(storage, "_SETTLE_SECONDS", 0.01)
    docker["ActiveState"] = "activating"
    storage._wait_settled()


def test_what_was_edited_during_the_copy_is_kept(node: Node, disk: Path) -> None:
    move = begun(node, disk)
    node.config("docker", '{"insecure-registries": ["nas:5000"]}')
    storage._renew_files(move)
    texts = move.record["files"][f"{node.root}/docker.conf"]
    assert texts["old"] == '{"insecure-registries": ["nas:5000"]}'
    assert json.loads(texts["new"]) == {
        "insecure-registries": ["nas:5000"],
        "data-root": f"{disk}/docker",
    }
    assert storage.unfinished() == move.record


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"data-root": "/mnt/third"}',
            "docker was given another folder while its data was copied",
        ),
        ('{"data-root": ', "cannot be used: it is no valid JSON"),
    ],
)
def test_a_folder_that_was_changed_during_the_copy_stops_the_move(
    node: Node, disk: Path, text: str, words: str
) -> None:
    move = begun(node, disk)
    node.config("docker", text)
    with pytest.raises(RuntimeError, match=words):
        storage._renew_files(move)


@pytest.mark.parametrize("phase", ["planned", "copying", "stopping", "verifying", "switching"])
def test_data_that_was_put_there_by_hand_is_not_written_over_by_a_move_that_was_cut_off(
    node: Node, disk: Path, phase: str
) -> None:
    move = begun(node, disk)
    (disk / "docker").mkdir()
    (disk / "docker/live").write_text("")
    snapshot: dict[str, Any] = {"docker": None, "containerd": None}
    more = {"services": [], "snapshot": snapshot, "stopped": [], "error": None, "since": 1.0,
            "bytes": 0}  # fmt: skip
    move.journal.save({**move.record, **more}, phase)
    node.config("docker", json.dumps({"data-root": str(disk / "docker"), "debug": True}))
    done = storage.migrate(str(disk), ["docker"])
    assert done["message"] == f"the data is at {disk} already"
    assert (disk / "docker/live").exists()
    assert storage.unfinished() is None
    assert "docker was given another folder" in (storage.last() or {})["error"]
    # and it is no folder to be purged one day
    assert move.journal.history()["old_roots"] == []


def test_the_way_back_to_the_default_leaves_no_file_of_ours(node: Node) -> None:
    node.config("docker", '{\n  "data-root": "/srv/x/docker"\n}\n')
    moves = {"docker": {"from": "/srv/x/docker", "to": f"{node.root}/docker"}}
    files = storage._new_files(moves, "local")
    assert files[f"{node.root}/docker.conf"]["new"] is None


# --- afterwards ---------------------------------------------------------------------------------


def test_the_way_back_is_the_target_that_the_data_came_from(node: Node) -> None:
    journal = move_journal.at(storage._DIRECTORY)
    with pytest.raises(CommandExecutionError, match="nothing to go back to"):
        storage._previous()
    for sources, previous in (
        ({engine: f"{node.root}/{engine}" for engine in storage.ENGINES}, "local"),
        ({engine: f"/mnt/usb/{engine}" for engine in storage.ENGINES}, "/mnt/usb"),
    ):
        moves = {engine: {"from": path, "to": "/x"} for engine, path in sources.items()}
        journal.save_history({"old_roots": [], "last": {"ok": True, "moves": moves}})
        assert storage._previous() == previous
    moves = {"docker": {"from": "/mnt/data-root", "to": "/x"}}
    journal.save_history({"old_roots": [], "last": {"ok": True, "moves": moves}})
    with pytest.raises(CommandExecutionError, match="which is no one target"):
        storage._previous()


def left(node: Node, path: Path) -> None:
    entry = storage._left("docker", str(path), 1.0, 0)
    move_journal.at(storage._DIRECTORY).save_history({"old_roots": [entry], "last": None})


@pytest.mark.skipif(os.geteuid() != 0, reason="looks into all processes")
def test_a_purge_deletes_what_is_left_and_nothing_that_is_used(node: Node, tmp_path: Path) -> None:
    old = tmp_path / "old/docker"
    (old / "a/b").mkdir(parents=True)
    (old / "a/file").write_text("x")
    left(node, old)
    node.config("docker", json.dumps({"data-root": str(old)}))
    with pytest.raises(CommandExecutionError, match="docker has its data in"):
        storage.purge()
    node.config("docker", json.dumps({"data-root": str(old / "a")}))
    with pytest.raises(CommandExecutionError, match="must not be deleted"):
        storage.purge()
    node.config("docker", "{}")
    move_journal.at(storage._DIRECTORY).save(
        {"phase": "copying", "moves": {}, "files": {}, "target": "/x"}
    )
    with pytest.raises(CommandExecutionError, match="is unfinished"):
        storage.purge()
    move_journal.at(storage._DIRECTORY).close()
    node.config("docker", '{"data-root": ')
    with pytest.raises(CommandExecutionError, match="cannot be used: it is no valid JSON"):
        storage.purge()
    node.config("docker", "{}")
    assert (old / "a/file").exists()
    assert storage.purge()["removed"] == [str(old)]
    assert not old.exists()
    assert storage.purge() == {"removed": [], "bytes": 0}


def test_a_folder_that_a_stopped_docker_still_needs_is_not_purged(
    node: Node, tmp_path: Path
) -> None:
    old = tmp_path / "old/docker"
    (old / "volumes").mkdir(parents=True)
    left(node, old)
    container = node.root / "docker/containers/abc"
    container.mkdir(parents=True)
    points = {"/data": {"Type": "bind", "Source": f"{old}/volumes"}, "/v": {"Type": "volume"}}
    (container / "config.v2.json").write_text(json.dumps({"Name": "/web", "MountPoints": points}))
    (problem,) = storage.purge_problems()
    assert problem.startswith(f"the container web mounts {old}/volumes; make it again without")
    (container / "config.v2.json").unlink()
    volume = node.root / "docker/100000.100000/volumes/shown"
    volume.mkdir(parents=True)
    options = {"MountType": "none", "MountOpts": "bind", "MountDevice": f"{old}/volumes"}
    (volume / "opts.json").write_text(json.dumps(options))
    (problem,) = storage.purge_problems()
    assert problem.startswith(f"the volume shown mounts {old}/volumes; make it again without")
    (volume / "opts.json").write_text(json.dumps({**options, "MountDevice": "tmpfs"}))
    assert storage.purge_problems() == []


@pytest.mark.parametrize("how", ["link", "link above", "another disk"])
def test_what_is_now_in_the_place_of_an_old_folder_is_neither_purged_nor_written_over(
    node: Node, tmp_path: Path, disk: Path, how: str
) -> None:
    old = tmp_path / "old/docker"
    old.mkdir(parents=True)
    left(node, old)
    theirs = tmp_path / "theirs/docker"
    theirs.mkdir(parents=True)
    (theirs / "precious").write_text("")
    old.rename(tmp_path / "aside")
    if how == "link":
        old.symlink_to(theirs)
    elif how == "link above":
        old.parent.rmdir()
        old.parent.symlink_to(theirs.parent)
    else:
        theirs.rename(old)
        theirs = old
    (problem,) = storage.plan(str(old.parent), ["docker"])["problems"]
    assert "have not put there" in problem
    assert storage.purge()["removed"] == []
    assert (theirs / "precious").exists()


def test_what_is_wanted_of_the_master_is_kept_until_it_is_there() -> None:
    assert storage.wanted() is None
    storage.want("/srv/containers", ["docker"])
    assert storage.wanted() == {"target": "/srv/containers", "engines": ["docker"]}
    storage.satisfied()
    assert storage.wanted() is None
