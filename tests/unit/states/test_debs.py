"""Packages and keys: the states over the real execution module, on a recorded dpkg and real HTTP."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import debs
from saltberry_ext.states import debs as state

KEY = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
SHA256 = hashlib.sha256(KEY).hexdigest()


class Dpkg:
    """A package database, an apt that installs from it, and what was asked of both."""

    def __init__(self) -> None:
        # name: [want, status, version], as dpkg-query shows them
        self.database: dict[str, list[str]] = {}
        self.lists: set[str] = set()
        self.mirror: set[str] = set()
        self.calls: list[list[str]] = []
        self.interrupted = ""
        self.needs: dict[str, str] = {}
        self.stuck: set[str] = set()

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        self.calls.append(argv)
        code, said = {
            "dpkg-query": self.query,
            "apt-get": self.apt,
            "apt-mark": self.mark,
            "dpkg": self.dpkg,
        }[argv[0]](argv)
        return {"retcode": code, "stdout": said, "stderr": ""}

    def query(self, argv: list[str]) -> tuple[int, str]:
        names = argv[argv.index("--") + 1 :]
        rows = [
            f"{name} {' '.join(self.database[name])}" for name in names if name in self.database
        ]
        return int(len(rows) < len(names)), "\n".join(rows)

    def apt(self, argv: list[str]) -> tuple[int, str]:
        if "update" in argv:
            self.lists |= self.mirror
            return 0, ""
        if "--fix-broken" in argv:
            self.interrupted = ""
            return 0, ""
        wanted = argv[argv.index("--") + 1 :]
        if "remove" in argv:
            gone = [*wanted, *(self.needs[name] for name in wanted if name in self.needs)]
            for name in set(gone) - self.stuck:
                self.database[name][:2] = ["deinstall", "config-files"]
            return 0, "".join(f"Removing {name} (1.0-1) ...\n" for name in gone)
        unknown = [name for name in wanted if name not in self.lists]
        if unknown or self.interrupted:
            return 100, f"Reading package lists...\nE: Unable to locate {unknown[0]}"
        for name, _, version in (entry.partition("=") for entry in wanted):
            self.database[name] = ["install", "installed", version or "1.0-1"]
        return 0, ""

    def mark(self, argv: list[str]) -> tuple[int, str]:
        for name in argv[2:]:
            self.database[name][0] = "hold"
        return 0, ""

    def dpkg(self, argv: list[str]) -> tuple[int, str]:
        return 0, self.interrupted if "--audit" in argv else ""

    def asked(self, program: str, word: str) -> bool:
        return any(call[0] == program and word in call for call in self.calls)


@pytest.fixture
def dpkg() -> Dpkg:
    return Dpkg()


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"test": False}


@pytest.fixture
def configure_loader_modules(
    dpkg: Dpkg, opts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[Any, dict[str, Any]]:
    monkeypatch.setattr(debs, "_UPDATES", tmp_path / "updates")
    functions: dict[str, Any] = {
        f"debs.{name}": function
        for name, function in vars(debs).items()
        if name[0] != "_" and callable(function)
    }
    functions["cmd.run_all"] = dpkg.run_all
    return {debs: {"__salt__": functions}, state: {"__salt__": functions, "__opts__": opts}}


PINNED = {"kubelet": "1.34.2-1.1", "kubeadm": "1.34.2-1.1"}


def test_a_blank_node_whose_repository_is_new(dpkg: Dpkg, opts: dict[str, Any]) -> None:
    dpkg.mirror = {f"{name}={version}" for name, version in PINNED.items()}
    opts["test"] = True
    ret = state.installed("kubernetes", PINNED, hold=True)
    assert ret["result"] is None
    assert "kubelet 1.34.2-1.1" in ret["comment"]
    assert not dpkg.asked("apt-get", "install")
    assert not dpkg.asked("apt-get", "update")

    opts["test"] = False
    ret = state.installed("kubernetes", PINNED, hold=True)
    assert ret["result"] is True, ret
    assert ret["changes"]["kubelet"] == {"old": None, "new": "1.34.2-1.1"}
    assert dpkg.database["kubelet"] == ["hold", "installed", "1.34.2-1.1"]

    dpkg.calls.clear()
    ret = state.installed("kubernetes", PINNED, hold=True)
    assert (ret["result"], ret["changes"], len(dpkg.calls)) == (True, {}, 1)


def test_lists_are_not_fetched_without_need(dpkg: Dpkg) -> None:
    dpkg.lists = {"runc"}
    assert state.installed("runc", ["runc"])["changes"] == {"runc": {"old": None, "new": "1.0-1"}}
    assert not dpkg.asked("apt-get", "update")


def test_a_package_that_nobody_has(dpkg: Dpkg) -> None:
    ret = state.installed("x", ["runc"])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "Unable to locate runc" in ret["comment"]
    assert "Reading package lists" not in ret["comment"]


@pytest.mark.parametrize(
    ("row", "version", "held"),
    [
        (["install", "installed", "1.0-1"], "1.0-1", False),
        (["hold", "installed", "1.0-1"], "1.0-1", True),
        (["deinstall", "config-files", "1.0-1"], None, False),
        (["install", "half-configured", "1.0-1"], None, False),
        (["unknown", "not-installed"], None, False),
    ],
)
def test_what_dpkg_knows(dpkg: Dpkg, row: list[str], version: str | None, held: bool) -> None:
    dpkg.database["runc"] = row
    assert debs.status(["runc", "absent"]) == {
        "runc": {"version": version, "held": held},
        "absent": {"version": None, "held": False},
    }


def test_a_members_versions_are_frozen(dpkg: Dpkg) -> None:
    dpkg.database["kubelet"] = ["hold", "installed", "1.34.1-1.1"]
    ret = state.installed("kubernetes", {"kubelet": "1.34.2-1.1"}, hold=True, frozen=True)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "upgrade the rack" in ret["comment"]
    # what is missing is still put back
    dpkg.lists = {"kubeadm=1.34.2-1.1"}
    ret = state.installed("kubernetes", {"kubeadm": "1.34.2-1.1"}, frozen=True)
    assert ret["result"] is True


def test_a_lost_hold_is_put_back(dpkg: Dpkg) -> None:
    dpkg.database["kubelet"] = ["install", "installed", "1.34.2-1.1"]
    ret = state.installed("kubernetes", {"kubelet": "1.34.2-1.1"}, hold=True)
    assert ret["changes"] == {"held": {"old": None, "new": ["kubelet"]}}


@pytest.mark.parametrize("trace", ["journal", "audit"])
def test_a_power_cut_in_dpkg_is_mended_first(dpkg: Dpkg, tmp_path: Path, trace: str) -> None:
    dpkg.lists = {"runc"}
    dpkg.interrupted = "the following packages are only half configured"
    if trace == "journal":
        conffile = tmp_path / "updates" / "0001"
        conffile.parent.mkdir()
        conffile.touch()
    assert state.installed("runc", ["runc"])["result"] is True
    assert dpkg.asked("dpkg", "--configure")
    assert dpkg.asked("apt-get", "--fix-broken")


# --- keys ---


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a web server that has one key."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/key"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(KEY if found else b"no")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_key_is_fetched_once(server: str, tmp_path: Path, opts: dict[str, Any]) -> None:
    file = tmp_path / "keyrings" / "k.asc"
    opts["test"] = True
    assert state.key(str(file), f"{server}/key", SHA256)["result"] is None
    assert not file.parent.exists()
    opts["test"] = False
    assert state.key(str(file), f"{server}/key", SHA256.upper())["changes"]
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (KEY, 0o644)
    # nothing is asked of the network any more
    assert state.key(str(file), "http://127.0.0.1:1/key", SHA256)["changes"] == {}
    file.write_bytes(b"another")
    assert state.key(str(file), f"{server}/key", SHA256)["changes"]
    assert file.read_bytes() == KEY


@pytest.mark.parametrize(
    ("path", "sha256", "says"),
    [
        ("/key", "0" * 64, "the pillar says 0000"),
        ("/absent", SHA256, "404"),
        ("/key", None, "unverified"),
    ],
)
def test_a_key_that_cannot_be_trusted(
    server: str, tmp_path: Path, path: str, sha256: str | None, says: str
) -> None:
    file = tmp_path / "k.asc"
    ret = state.key(str(file), f"{server}{path}", sha256)
    assert (ret["result"], ret["changes"], file.exists()) == (False, {}, False)
    assert says in ret["comment"]


def test_a_key_without_a_digest_is_trusted_on_first_use(tmp_path: Path) -> None:
    file = tmp_path / "k.asc"
    file.write_bytes(KEY)
    assert state.key(str(file), "https://pkgs.k8s.io/key")["comment"].endswith("is in place")


def test_packages_are_removed_with_what_needs_them_and_once(
    dpkg: Dpkg, opts: dict[str, Any]
) -> None:
    dpkg.database = {
        "docker.io": ["hold", "installed", "26.1-1"],
        "docker-compose": ["install", "installed", "1.0-1"],
    }
    dpkg.needs = {"docker.io": "docker-compose"}
    opts["test"] = True
    told = state.removed("docker", ["docker.io", "docker-cli"])
    assert (told["result"], told["changes"]) == (
        None,
        {"docker.io": {"old": "26.1-1", "new": None}},
    )
    assert not dpkg.asked("apt-get", "remove")
    opts["test"] = False
    done = state.removed("docker", ["docker.io", "docker-cli"])
    assert done["result"] is True
    assert set(done["changes"]) == {"docker.io", "docker-compose"}
    dpkg.calls.clear()
    again = state.removed("docker", ["docker.io", "docker-cli"])
    assert (again["result"], again["changes"], len(dpkg.calls)) == (True, {}, 1)


def test_a_package_that_stays_is_named(dpkg: Dpkg) -> None:
    dpkg.database = {"docker.io": ["install", "installed", "26.1-1"]}
    dpkg.stuck = {"docker.io"}
    ret = state.removed("docker", ["docker.io"])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "dpkg still has docker.io" in ret["comment"]
