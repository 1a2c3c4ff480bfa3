"""Mounts by units: the states over the real module, with real mounts; only systemctl is a stand-in.

Needs root, and fails without it.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import disk_image, nfs, pod_data, systemd_mount
from saltberry_ext.states import nfs as nfs_state
from saltberry_ext.states import pod_data as pod_state
from saltberry_ext.states import systemd_mount as state
from saltberry_ext.utils import conffiles, mount_unit

UNIT = {"description": "A test", "options": ["noatime"]}


class Systemd:
    """A systemctl that mounts what its unit says, and notes what was asked of it."""

    def __init__(self, units: Path) -> None:
        self.units = units
        self.calls: list[str] = []
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.broken = ""
        self.member = False
        self.wanted: list[str] = []

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        if argv[0] == "journalctl":
            return {"retcode": 0, "stdout": f"Mounting…\nmount: {self.broken}\n", "stderr": ""}
        if argv[0] != "systemctl":
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        self.calls.append(" ".join(argv[1:]))
        verb, name = argv[1], argv[-1]
        if verb == "start" and name.endswith(".mount"):
            return self.start(name)
        if verb == "stop" and name.endswith(".mount"):
            done = subprocess.run(["umount", self.fields(name)["Where"]], check=False)
            return {"retcode": done.returncode, "stdout": "", "stderr": "busy"}
        if argv[:3] == ["systemctl", "show", "--property=What"]:
            return {"retcode": 0, "stdout": self.fields(name)["What"], "stderr": ""}
        if verb in ("restart", "start"):
            self.active.add(name)
        word = "active" if name in self.active else "inactive"
        return {"retcode": 0, "stdout": word, "stderr": ""}

    def fields(self, name: str) -> dict[str, str]:
        lines = (self.units / name).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def start(self, name: str) -> dict[str, Any]:
        fields = self.fields(name)
        if self.broken:
            return {"retcode": 1, "stdout": "", "stderr": "Job failed"}
        Path(fields["Where"]).mkdir(parents=True, exist_ok=True)
        kind = ["-t", fields["Type"]] if "Type" in fields else []
        argv = ["mount", *kind, "-o", fields["Options"], fields["What"], fields["Where"]]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return {"retcode": done.returncode, "stdout": "", "stderr": done.stderr}


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path / "units")


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"test": False}


@pytest.fixture
def configure_loader_modules(
    systemd: Systemd, opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[Any, dict[str, Any]]:
    monkeypatch.setattr(systemd_mount, "_UNITS", systemd.units)
    functions: dict[str, Any] = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (systemd_mount, pod_data, nfs)
        for name, value in vars(module).items()
        if name[0] != "_" and callable(value)
    }
    functions |= {
        "cmd.run_all": systemd.run_all,
        "node.unit_enabled": lambda name: name in systemd.enabled,
        "node.enable_unit": systemd.enabled.add,
        "node.is_member": lambda: systemd.member,
        "container_storage.want": systemd.wanted.append,
        "file.makedirs_perms": lambda path, mode: Path(path).mkdir(int(mode, 8), parents=True),
    }
    utils = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (conffiles, mount_unit)
        for name, value in vars(module).items()
        if name[0] != "_" and callable(value)
    }
    functions["nfs.why_not"] = lambda side: ""
    pillar = {"nodes": {"nfs1": {"ip": "127.0.0.1", "roles": ["storage"]}}}
    dunders = {
        "__salt__": functions, "__utils__": utils, "__opts__": opts, "__pillar__": pillar,
        "__states__": {"systemd_mount.mounted": state.mounted},
    }  # fmt: skip
    modules = (systemd_mount, state, disk_image, pod_data, pod_state, nfs, nfs_state)
    return dict.fromkeys(modules, dunders)


def mounts_below(path: Path) -> list[str]:
    """What is mounted at or below a folder. os.path.ismount knows nothing of bind mounts."""
    table = mount_unit.parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    return [m["where"] for m in table if f"{m['where']}/".startswith(f"{path}/")]


@pytest.fixture
def where(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "mnt"
    yield str(path)
    for mount in reversed(mounts_below(path)):
        subprocess.run(["umount", mount], check=True)


@pytest.fixture
def image(tmp_path: Path) -> str:
    file = tmp_path / "disk.img"
    with file.open("wb") as handle:
        handle.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(file)], check=True)
    return str(file)


LOOP = {"description": "A test", "fstype": "ext4", "options": ["loop", "noatime"]}


def test_mounted_for_real_and_a_second_run_has_nothing_to_do(
    where: str, image: str, systemd: Systemd, opts: dict[str, Any]
) -> None:
    opts["test"] = True
    ret = state.mounted(where, image, LOOP)
    assert ret["result"] is None
    assert ret["changes"]["mounted"]["new"] == f"{image} at {where}"
    assert not systemd.units.exists()
    opts["test"] = False
    ret = state.mounted(where, image, LOOP)
    assert ret["result"] is True, ret
    assert os.path.ismount(where)
    assert systemd_mount.mounted_from(where, image)
    systemd.calls.clear()
    again = state.mounted(where, image, LOOP)
    assert (again["result"], again["changes"], systemd.calls) == (True, {}, [])
    # other options: the file system stays mounted
    other = state.mounted(where, image, {**LOOP, "options": ["loop", "noatime", "discard"]})
    assert other["result"] is True
    assert "next mount" in other["comment"]
    assert list(other["changes"]) == ["unit"]
    assert systemd.calls == ["daemon-reload"]


def test_a_bind_mount_is_known_by_what_it_shows(where: str, tmp_path: Path) -> None:
    source, stranger = tmp_path / "source", tmp_path / "stranger"
    source.mkdir()
    stranger.mkdir()
    bind = {"description": "A test", "fstype": "none", "options": ["bind"]}
    assert state.mounted(where, str(source), bind)["result"] is True
    assert state.mounted(where, str(source), bind)["changes"] == {}
    ret = state.mounted(where, str(stranger), bind)
    assert ret["result"] is False
    assert "is mounted there and not" in ret["comment"]


def test_files_are_never_hidden_by_a_mount(where: str, image: str, systemd: Systemd) -> None:
    (Path(where) / "empty/folders").mkdir(parents=True)
    assert systemd_mount.hidden_file(where) is None
    (Path(where) / "empty/folders/data").write_text("precious")
    ret = state.mounted(where, image, LOOP)
    assert (ret["result"], ret["changes"], systemd.calls) == (False, {}, [])
    assert "empty/folders/data would be hidden" in ret["comment"]
    assert not systemd.units.exists()


def test_what_is_mounted_by_somebody_else_stays(where: str, image: str, systemd: Systemd) -> None:
    Path(where).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "mine", where], check=True)
    ret = state.mounted(where, image, LOOP)
    assert (ret["result"], ret["changes"], systemd.calls) == (False, {}, [])
    assert f"mine is mounted there and not {image}; unmount it first" in ret["comment"]


def test_a_mount_that_fails_says_why(where: str, image: str, systemd: Systemd) -> None:
    systemd.broken = "Connection refused"
    ret = state.mounted(where, image, LOOP)
    assert ret["result"] is False
    assert "Connection refused" in ret["comment"]
    assert "mounted" not in ret["changes"]
    # the unit is there, and mounting still to be done
    assert list(systemd_mount.plan(where, image, **LOOP)) == ["mount"]


@pytest.mark.parametrize("spec", ["LABEL=sb-nowhere", "UUID=0b1e4c5a-91c2-4c1d-8a54-0123456789ab"])
def test_a_disk_that_is_not_there_is_named(where: str, systemd: Systemd, spec: str) -> None:
    systemd.broken = "special device does not exist."
    ret = state.mounted(where, spec, {"description": "A disk", "options": ["noatime"]})
    assert ret["result"] is False
    assert f"no disk of this node is {spec}; is it plugged in?" in ret["comment"]


def test_a_share_that_is_away_is_no_failure_but_is_told(
    where: str, image: str, systemd: Systemd
) -> None:
    systemd.broken = "No route to host"
    ret = state.mounted(where, image, LOOP, must=False)
    assert ret["result"] is True
    assert ret["warnings"] == [ret["comment"]]
    assert "No route to host; the node goes on without it and keeps trying" in ret["comment"]
    assert "mounted" not in ret["changes"]


def test_a_share_is_mounted_only_when_its_server_answers(
    where: str, image: str, systemd: Systemd, opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setattr(nfs, "_PORT", gone.getsockname()[1])
    assert nfs_state.answering(where)["result"] is False
    opts["test"] = True
    assert nfs_state.answering(where)["result"] is None
    assert nfs_state.mounted(where, image, LOOP)["result"] is None
    opts["test"] = False
    ret = nfs_state.mounted(where, image, LOOP)
    assert ret["result"] is True
    assert "nfs1 (127.0.0.1) does not answer" in ret["warnings"][0]
    assert list(ret["changes"]) == ["unit"]
    assert systemd.calls == ["daemon-reload"]
    again = nfs_state.mounted(where, image, LOOP)
    assert (again["changes"], len(again["warnings"])) == ({}, 1)

    with socket.create_server(("127.0.0.1", 0)) as back:
        monkeypatch.setattr(nfs, "_PORT", back.getsockname()[1])
        assert nfs_state.answering(where)["result"] is True
        ret = nfs_state.mounted(where, image, LOOP)
        assert (ret["result"], list(ret["changes"])) == (True, ["mounted"])
        assert nfs_state.mounted(where, image, LOOP)["changes"] == {}


def test_a_waiting_service_is_set_up_once(systemd: Systemd, opts: dict[str, Any]) -> None:
    args = {"mounts": ["/srv/share"], "description": "Wait", "then": ["docker.service"]}
    opts["test"] = True
    assert state.awaited("wait.service", **args)["result"] is None
    assert not systemd.units.exists()
    opts["test"] = False
    ret = state.awaited("wait.service", **args)
    assert set(ret["changes"]) == {"unit", "enabled", "running"}
    assert state.awaited("wait.service", **args)["changes"] == {}
    assert "docker.service" in (systemd.units / "wait.service").read_text()
    changed = state.awaited("wait.service", **{**args, "mounts": ["/srv/other"]})
    assert list(changed["changes"]) == ["unit"]
    assert systemd.calls[-1] == "restart --no-block -- wait.service"


def test_services_are_bound_to_their_mount_once(systemd: Systemd, opts: dict[str, Any]) -> None:
    opts["test"] = True
    assert state.needed_by("/srv/nfs", ["nfs-server.service"])["result"] is None
    opts["test"] = False
    assert state.needed_by("/srv/nfs", ["nfs-server.service"])["changes"]
    dropin = systemd.units / "nfs-server.service.d/saltberry-storage.conf"
    assert "[Unit]\nRequiresMountsFor=/srv/nfs\n" in dropin.read_text()
    assert state.needed_by("/srv/nfs", ["nfs-server.service"])["changes"] == {}


def test_a_unit_is_written_once(systemd: Systemd, opts: dict[str, Any]) -> None:
    opts["test"] = True
    assert state.unit("x.service", "[Unit]\n")["result"] is None
    opts["test"] = False
    assert state.unit("x.service", "[Unit]\n")["changes"]
    assert systemd.calls == ["daemon-reload"]
    assert state.unit("x.service", "[Unit]\n")["changes"] == {}


# --- pod data -----------------------------------------------------------------------------------


@pytest.fixture
def pods(where: str) -> Path:
    """A kubelet's folder with a pod's file, and the secret of one in memory."""
    folder = Path(where)
    (folder / "uid/volumes/data").mkdir(parents=True)
    (folder / "uid/volumes/data/file").write_text("kept")
    os.setxattr(folder / "uid/volumes/data/file", "user.mark", b"1")
    secret = folder / "uid/volumes/secret"
    secret.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "secret", str(secret)], check=True)
    return folder


def test_pod_data_of_a_blank_node_is_bound_at_once(
    where: str, tmp_path: Path, opts: dict[str, Any]
) -> None:
    source = tmp_path / "disk/kubelet-pods"
    opts["test"] = True
    assert pod_state.bound(where, str(source), "/srv/containers")["result"] is None
    assert not source.exists()
    opts["test"] = False
    assert pod_state.bound(where, str(source), "/srv/containers")["result"] is True
    (Path(where) / "new").write_text("x")
    assert (source / "new").exists()
    again = pod_state.bound(where, str(source), "/srv/containers")
    assert (again["result"], again["changes"]) == (True, {})


def test_pod_data_follows_to_another_disk(
    where: str, tmp_path: Path, systemd: Systemd, opts: dict[str, Any]
) -> None:
    first, second = (tmp_path / disk / "kubelet-pods" for disk in ("first", "second"))
    assert pod_state.bound(where, str(first), "/srv/first")["result"] is True
    (Path(where) / "uid").write_text("kept")
    systemd.member = True
    assert "drains it first" in pod_state.bound(where, str(second), "/srv/second")["comment"]
    assert (systemd.wanted, second.exists()) == (["/srv/second"], False)
    opts["test"] = True
    told = pod_state.bound(where, str(second), "/srv/second", drained=True)
    assert told["changes"] == {where: {"old": "another disk", "new": str(second)}}
    opts["test"] = False
    ret = pod_state.bound(where, str(second), "/srv/second", drained=True)
    assert ret["result"] is True, ret
    assert (second / "uid").read_text() == "kept"
    assert (Path(where) / "uid").samefile(second / "uid")
    assert mounts_below(Path(where)) == [where]
    assert pod_state.bound(where, str(second), "/srv/second")["changes"] == {}


def test_what_a_person_has_mounted_over_pod_data_stays(where: str, tmp_path: Path) -> None:
    Path(where).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "persons", where], check=True)
    (Path(where) / "uid").write_text("theirs")
    ret = pod_state.bound(where, str(tmp_path / "disk"), "/srv/containers")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "persons is mounted there and not" in ret["comment"]
    assert (Path(where) / "uid").read_text() == "theirs"


def test_pod_data_of_a_member_waits_for_the_master(
    pods: Path, tmp_path: Path, systemd: Systemd, opts: dict[str, Any]
) -> None:
    systemd.member = True
    source = tmp_path / "disk/kubelet-pods"
    opts["test"] = True
    assert pod_state.bound(str(pods), str(source), "/srv/containers")["result"] is None
    assert systemd.wanted == []
    opts["test"] = False
    ret = pod_state.bound(str(pods), str(source), "/srv/containers")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.wanted == ["/srv/containers"]
    assert not source.exists()


def test_pod_data_of_a_drained_member_moves_whole(
    pods: Path, tmp_path: Path, systemd: Systemd
) -> None:
    systemd.member = True
    source = tmp_path / "disk/kubelet-pods"
    ret = pod_state.bound(str(pods), str(source), "/srv/containers", drained=True)
    assert ret["result"] is True, ret
    assert mounts_below(pods) == [str(pods)]
    moved = source / "uid/volumes/data/file"
    assert moved.read_text() == "kept"
    assert os.getxattr(moved, "user.mark") == b"1"
    assert (pods / "uid/volumes/data/file").read_text() == "kept"
    stopped, started = (
        next(at for at, call in enumerate(systemd.calls) if call.startswith(f"{verb} kubelet"))
        for verb in ("stop", "start")
    )
    mounted = next(at for at, call in enumerate(systemd.calls) if call.endswith(".mount"))
    assert stopped < mounted < started


def test_pod_data_that_cannot_be_copied_stays_and_kubelet_runs_again(
    pods: Path, tmp_path: Path, systemd: Systemd
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    ret = pod_state.bound(str(pods), f"{blocked}/pods", "/srv/containers", drained=True)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert (pods / "uid/volumes/data/file").read_text() == "kept"
    assert systemd.calls[-1] == "start kubelet.service"
