"""What the exports file says against what the running server lets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import nfs
from saltberry_ext.states import nfs as state
from saltberry_ext.utils import conffiles

FILE = """# Written by Salt (salt/nfs/server).
/srv/nfs/nodes/pi-01 192.168.1.21(rw,sync)
/srv/nfs/volumes/media 192.168.1.21(ro) 192.168.1.22(ro)
"""
# As exportfs writes it
ETAB = (
    "/srv/nfs/nodes/pi-01\t192.168.1.21(rw,sync,wdelay,hide,nocrossmnt,secure,root_squash)\n"
    "/srv/nfs/volumes/media\t192.168.1.21(ro,sync)\n"
    "/srv/nfs/volumes/media\t192.168.1.22(ro,sync)\n"
    "/home/mine\t192.168.1.99(rw)\n"
)


class Server:
    """A server of which only its files are asked."""

    def __init__(self, folder: Path) -> None:
        self.running = True
        self.table = folder / "etab"
        self.file = folder / "saltberry.exports"
        self.table.write_text(ETAB, encoding="utf-8")
        self.file.write_text(FILE, encoding="utf-8")

    def export(self) -> None:
        self.table.write_text(ETAB, encoding="utf-8")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path)
    monkeypatch.setattr(nfs, "_SERVED", made.table)
    monkeypatch.setattr(nfs, "exports", lambda: FILE)
    monkeypatch.setattr(nfs, "server_running", lambda: made.running)
    monkeypatch.setattr(nfs, "export", made.export)
    execution = {f"nfs.{name}": getattr(nfs, name) for name in
                 ("exports", "export", "server_running", "not_served")}  # fmt: skip
    utils = {f"conffiles.{name}": getattr(conffiles, name) for name in ("read", "write", "diff")}
    monkeypatch.setattr(state, "__salt__", execution, raising=False)
    monkeypatch.setattr(state, "__utils__", utils, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    return made


def exported(server: Server, test: bool = False) -> dict[str, Any]:
    state.__opts__["test"] = test
    return state.exported(str(server.file))


@pytest.mark.parametrize("test", [True, False])
def test_what_is_served_as_written_changes_nothing(server: Server, test: bool) -> None:
    ret = exported(server, test)
    assert (ret["result"], ret["changes"]) == (True, {})


def test_an_export_taken_back_by_hand_is_named_and_served_again(server: Server) -> None:
    server.table.write_text(ETAB.replace("192.168.1.22(", "192.168.1.98("), encoding="utf-8")
    told = exported(server, test=True)
    assert (told["result"], told["changes"]) == (
        None,
        {"served": {"/srv/nfs/volumes/media 192.168.1.22": "again"}},
    )
    assert exported(server)["changes"] == told["changes"]
    assert exported(server)["changes"] == {}


def test_a_server_that_does_not_run_lacks_nothing(server: Server) -> None:
    server.table.unlink()
    assert len(nfs.not_served()) == 3
    server.running = False
    assert nfs.not_served() == []


def test_a_changed_file_is_told_as_a_diff(server: Server) -> None:
    server.file.write_text("", encoding="utf-8")
    assert set(exported(server, test=True)["changes"]) == {"diff"}
    assert exported(server)["result"] is True
    assert server.file.read_text(encoding="utf-8") == FILE
