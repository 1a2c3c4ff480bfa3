"""The ssh server's settings, so that nobody is locked out of a Pi without a screen.

Passwords are only turned off while root, or somebody who may become root, has a key that the server
takes; what is written is judged by ``sshd -t`` first, and taken back when it finds a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from salt.exceptions import CommandExecutionError

__virtualname__ = "sshd"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# Tests point this at a folder of their own.
_ROOT = Path("/")

# sshd takes the first value that it reads: before cloud-init's 50-cloud-init.conf.
_DROPIN = "etc/ssh/sshd_config.d/10-saltberry.conf"
_PROGRAM = "usr/sbin/sshd"
_HEAD = (
    "# Written by Salt, from the pillar's ssh\n# No waiting for a name server at login\nUseDNS no\n"
)
_KEYS_ONLY = "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
_KEY = re.compile(r"^[^#\n]*\b(ssh-(ed25519|rsa)|ecdsa-sha2-\S+|sk-\S+) AAAA[A-Za-z0-9+/]+", re.M)
_NO_SHELLS = ("nologin", "false", "sync")
_ADMIN_GROUPS = ("sudo", "wheel")


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str
    shell: str


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def why_not() -> str:
    """Return why this node's ssh server cannot be told anything; empty if it can.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.why_not
    """
    if not _at(_PROGRAM).exists():
        return "there is no ssh server"
    main = __utils__["conffiles.read"](_at("etc/ssh/sshd_config"))
    if not re.search(r"^\s*Include\s+/etc/ssh/sshd_config\.d/\*\.conf", main, re.M | re.I):
        return "/etc/ssh/sshd_config does not include /etc/ssh/sshd_config.d/*.conf"
    return ""


def admins_with_key() -> list[str]:
    """Return who may become root here and has a key with which the ssh server lets them in.

    Root, members of the group sudo, and who is named in /etc/sudoers.d. A key counts only where the
    server takes it: with a login shell, in a home that nobody else may write to.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.admins_with_key
    """
    users = list(_users())
    groups = _groups()
    admins = {"root", *_sudoers()}
    for name in _ADMIN_GROUPS:
        gid, members = groups.get(name, (-1, []))
        admins |= {*members, *(user.name for user in users if user.gid == gid)}
    return sorted(user.name for user in users if user.name in admins and _has_key(user))


def _users() -> Iterator[_User]:
    for line in __utils__["conffiles.read"](_at("etc/passwd")).splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit():
            yield _User(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6])


def _groups() -> dict[str, tuple[int, list[str]]]:
    rows = [row.split(":") for row in __utils__["conffiles.read"](_at("etc/group")).splitlines()]
    return {r[0]: (int(r[2]), r[3].split(",")) for r in rows if len(r) == 4 and r[2].isdigit()}


def _sudoers() -> set[str]:
    """Return the users that a file below /etc/sudoers.d lets do everything."""
    found: set[str] = set()
    for path in sorted(_at("etc/sudoers.d").glob("*")):
        # sudo skips these too
        if path.is_file() and "." not in path.name and not path.name.endswith("~"):
            text = __utils__["conffiles.read"](path)
            found |= set(re.findall(r"^([a-z_][a-z0-9_-]*)\s+ALL\s*=.*\bALL\s*$", text, re.M))
    return found


def _has_key(user: _User) -> bool:
    keys = _at(user.home) / ".ssh/authorized_keys"
    if user.shell.rpartition("/")[2] in _NO_SHELLS:
        return False
    try:
        for path in (_at(user.home), keys.parent, keys):
            stat = path.stat()
            # What sshd's StrictModes asks
            if stat.st_mode & 0o022 or stat.st_uid not in (0, user.uid):
                return False
        return _KEY.search(__utils__["conffiles.read"](keys)) is not None
    except OSError:
        return False


def wanted(passwords: bool) -> str:
    """Return what the ssh server should be told.

    passwords
        Whether one may log in with a password. Without anybody in :func:`admins_with_key` one may
        all the same.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.wanted false
    """
    return _HEAD + (_KEYS_ONLY if not passwords and admins_with_key() else "")


def current() -> str:
    """Return what this project has told the ssh server; empty if nothing.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.current
    """
    return __utils__["conffiles.read"](_at(_DROPIN))


def path() -> str:
    """Return the file of :func:`current`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.path
    """
    return f"/{_DROPIN}"


def write(text: str) -> None:
    """Tell the ssh server something, if it understands it; it goes on with its sessions.

    text
        The whole file; empty: take the file away.

    Raises CommandExecutionError when ``sshd -t`` finds a fault, or when no key would be taken; all
    is as before then.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' sshd.write 'UseDNS no'
    """
    before = current()
    _put(text)
    fault = _fault(keys_only="PasswordAuthentication no" in text)
    if fault:
        _put(before)
        raise CommandExecutionError(f"nothing was changed: {fault}")
    # Reads it again where it runs; one that is off stays off
    _run(["systemctl", "try-reload-or-restart", "ssh.service"])


def _put(text: str) -> None:
    if text:
        __utils__["conffiles.write"](_at(_DROPIN), text)
    else:
        _at(_DROPIN).unlink(missing_ok=True)


def _fault(keys_only: bool) -> str:
    """Return what is wrong with the ssh server's settings as they are on the disk."""
    # It wants the folder that systemd makes at its start
    _at("run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    program = str(_at(_PROGRAM))
    judged = _run([program, "-t"])
    if judged["retcode"]:
        said = (judged["stderr"] or judged["stdout"]).strip()
        return f"sshd -t: {said or 'finds a fault'}"
    if not keys_only:
        return ""
    effective = dict(
        line.lower().split(" ", 1)
        for line in _run([program, "-T"])["stdout"].splitlines()
        if " " in line
    )
    if effective.get("pubkeyauthentication", "yes") != "yes":
        return "the ssh server takes no keys (PubkeyAuthentication no), so passwords stay"
    files = effective.get("authorizedkeysfile", ".ssh/authorized_keys").split()
    if not {".ssh/authorized_keys", "%h/.ssh/authorized_keys"} & set(files):
        return f"the ssh server looks for keys elsewhere ({' '.join(files)}), so passwords stay"
    return ""
