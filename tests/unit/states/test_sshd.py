"""Nobody is locked out: the state over the real module, on a root folder with a recorded sshd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import sshd
from saltberry_ext.states import sshd as state
from saltberry_ext.utils import conffiles

DROPIN = "etc/ssh/sshd_config.d/10-saltberry.conf"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqtest me@laptop\n"
UID = os.getuid()
PASSWD = f"""root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
pi:x:{UID}:{UID}:,,,:/home/pi:/bin/bash
eve:x:{UID}:{UID}:,,,:/home/eve:/bin/bash
"""


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.fault = ""
        self.effective = "pubkeyauthentication yes\nauthorizedkeysfile .ssh/authorized_keys"
        self.calls: list[str] = []
        self.put("usr/sbin/sshd")
        self.put("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
        self.put("etc/passwd", PASSWD)
        self.put("etc/group", "root:x:0:\nsudo:x:27:pi\nusers:x:100:eve\n")

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        self.calls.append(" ".join(argv[-3:]))
        out = self.effective if argv[-1] == "-T" else ""
        code = 255 if argv[-1] == "-t" and self.fault else 0
        return {"retcode": code, "stdout": out, "stderr": self.fault}

    def put(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        return file

    def key_of(self, user: str, text: str = KEY) -> Path:
        path = self.put(f"home/{user}/.ssh/authorized_keys", text)
        for folder in (path.parent, path.parent.parent):
            folder.chmod(0o755)
        return path

    @property
    def dropin(self) -> str:
        path = self.root / DROPIN
        return path.read_text() if path.exists() else ""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(sshd, "_ROOT", tmp_path)
    return Node(tmp_path)


@pytest.fixture
def configure_loader_modules(node: Node) -> dict[Any, Any]:
    utils = {f"conffiles.{name}": getattr(conffiles, name) for name in ("read", "write", "diff")}
    functions = {f"sshd.{name}": getattr(sshd, name) for name in dir(sshd) if name[0] != "_"}
    return {
        sshd: {"__salt__": {"cmd.run_all": node.run_all}, "__utils__": utils},
        state: {"__salt__": functions, "__utils__": utils, "__opts__": {"test": False}},
    }


def test_passwords_go_only_once_an_admin_has_a_key(node: Node) -> None:
    ret = state.hardened("ssh")
    assert "UseDNS no" in node.dropin
    assert "PasswordAuthentication" not in node.dropin
    assert "passwords stay" in ret["comment"]
    node.key_of("pi")
    assert state.hardened("ssh")["changes"]
    assert "PasswordAuthentication no\nKbdInteractiveAuthentication no\n" in node.dropin
    assert "systemctl try-reload-or-restart ssh.service" in node.calls
    assert state.hardened("ssh")["changes"] == {}


def test_a_key_that_is_gone_opens_the_door_again(node: Node) -> None:
    key = node.key_of("pi")
    state.hardened("ssh")
    key.unlink()
    state.hardened("ssh")
    assert "PasswordAuthentication" not in node.dropin


def test_who_may_not_become_root_does_not_count(node: Node) -> None:
    node.key_of("eve")
    assert sshd.admins_with_key() == []
    node.put("etc/sudoers.d/90-cloud-init-users", "# User rules\neve ALL=(ALL) NOPASSWD:ALL\n")
    assert sshd.admins_with_key() == ["eve"]


@pytest.mark.parametrize(
    "text", ["", "# " + KEY, "-----BEGIN OPENSSH PRIVATE KEY-----\n", "ssh-ed25519 nothing\n"]
)
def test_a_file_without_a_key_is_none(node: Node, text: str) -> None:
    node.key_of("pi", text)
    assert sshd.admins_with_key() == []


@pytest.mark.parametrize("path", ["home/pi", "home/pi/.ssh", "home/pi/.ssh/authorized_keys"])
def test_a_key_that_others_may_write_is_none_to_sshd(node: Node, path: str) -> None:
    node.key_of("pi")
    assert sshd.admins_with_key() == ["pi"]
    (node.root / path).chmod(0o777)
    assert sshd.admins_with_key() == []


def test_no_login_shell_no_login(node: Node) -> None:
    node.key_of("pi")
    node.put("etc/passwd", PASSWD.replace("/home/pi:/bin/bash", "/home/pi:/usr/sbin/nologin"))
    assert sshd.admins_with_key() == []


def test_a_fault_leaves_all_as_it_was(node: Node) -> None:
    state.hardened("ssh")
    before = node.dropin
    node.key_of("pi")
    node.fault = "/etc/ssh/sshd_config line 3: Bad configuration option: UsePAMM"
    node.calls.clear()
    ret = state.hardened("ssh")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "nothing was changed: sshd -t: /etc/ssh/sshd_config line 3" in ret["comment"]
    assert node.dropin == before
    assert not any("reload" in call for call in node.calls)


@pytest.mark.parametrize(
    "effective",
    ["pubkeyauthentication no", "authorizedkeysfile /etc/ssh/keys/%u"],
)
def test_where_keys_do_not_count_passwords_stay(node: Node, effective: str) -> None:
    node.key_of("pi")
    node.effective = effective
    ret = state.hardened("ssh")
    assert (ret["result"], "so passwords stay" in ret["comment"]) == (False, True)
    assert node.dropin == ""


def test_passwords_on_request(node: Node) -> None:
    node.key_of("pi")
    state.hardened("ssh", passwords=True)
    assert node.dropin == sshd._HEAD


@pytest.mark.parametrize("lacks", ["usr/sbin/sshd", "etc/ssh/sshd_config"])
def test_without_a_server_to_tell_nothing_is_written(node: Node, lacks: str) -> None:
    (node.root / lacks).unlink()
    ret = state.hardened("ssh")
    assert (ret["result"], ret["changes"], node.dropin) == (True, {}, "")
    assert ret["comment"]


def test_a_test_run_says_it_and_writes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(state.__opts__, "test", True)
    ret = state.hardened("ssh")
    assert ret["result"] is None
    assert "+UseDNS no" in ret["changes"]["diff"]
    assert (node.dropin, node.calls) == ("", [])


def test_as_is_takes_ours_away(node: Node) -> None:
    assert state.as_is("ssh")["changes"] == {}
    state.hardened("ssh")
    assert state.as_is("ssh")["changes"]
    assert not (node.root / DROPIN).exists()
