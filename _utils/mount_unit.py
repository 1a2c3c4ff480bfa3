"""Text of systemd units that mount things, as pure functions.

Units and not lines of fstab: a unit can say what it waits for and what waits for it, and removing
it is removing a file. Paths and names come from the pillar and hold only characters that need no
quoting (see ``rackspec``); :func:`name` escapes the others all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__virtualname__ = "mount_unit"

# How often a node that waits for its storage looks again.
RETRY_SECONDS = 15


def name(path: str) -> str:
    """Return the name that systemd gives the mount unit of a path, as ``systemd-escape`` does.

    path
        Absolute, for instance ``/srv/share/node``, whose unit is ``srv-share-node.mount``.
    """
    inner = "/".join(part for part in path.split("/") if part)
    if not inner:
        return "-.mount"
    escaped = "".join(
        "-"
        if char == "/"
        else char
        if re.fullmatch(r"[A-Za-z0-9:_]", char) or (char == "." and at > 0)
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for at, char in enumerate(inner)
    )
    return f"{escaped}.mount"


def source(what: str) -> str:
    """Return what a mount unit calls a file system: the device that udev names by it.

    what
        ``UUID=…``, ``LABEL=…`` or anything else, which stays as it is. With the device's name in
        the unit systemd waits for the device; with ``UUID=`` it would just try once.
    """
    kind, _, value = what.partition("=")
    if kind == "UUID":
        return f"/dev/disk/by-uuid/{value.lower()}"
    return f"/dev/disk/by-label/{value}" if kind == "LABEL" else what


def mount(
    where: str,
    what: str,
    *,
    description: str,
    fstype: str | None = None,
    options: Sequence[str] = ("defaults",),
    needs: Sequence[str] = (),
    wanted_by: Sequence[str] = (),
    timeout: int = 90,
) -> str:
    """Return a mount unit.

    where, what, fstype, options
        As for mount(8); ``UUID=`` and ``LABEL=`` become the device's name. No type: found out.
    description
        What it is, for ``systemctl status``.
    needs
        Units that have to be up before.
    wanted_by
        Units that pull it in at boot.
    timeout
        Seconds that mount(8) may take.
    """
    lines = ["# Written by Salt.", "[Unit]", f"Description={description}"]
    if needs:
        lines += [f"Requires={' '.join(needs)}", f"After={' '.join(needs)}"]
    lines += ["", "[Mount]", f"What={source(what)}", f"Where={where}"]
    if fstype:
        lines.append(f"Type={fstype}")
    lines += [f"Options={','.join(options)}", f"TimeoutSec={timeout}"]
    if wanted_by:
        lines += ["", "[Install]", f"WantedBy={' '.join(wanted_by)}"]
    return "".join(f"{line}\n" for line in lines)


def waiter(description: str, mounts: Sequence[str], then: Sequence[str]) -> str:
    """Return a service that tries to mount until it works, and starts what that held up.

    description
        What is waited for, for ``systemctl status``.
    mounts
        Mount points that have units.
    then
        Units to start afterwards, as far as they are enabled: systemd gave up on them when their
        mount failed at boot.

    systemd tries a mount once. This keeps a node whose storage is away at boot going: everything
    else comes up, and what needs the storage follows within :data:`RETRY_SECONDS` of its return.
    """
    # By path: the unit's name may hold backslashes, which sh and systemd would both unquote.
    # Asked before: a start of what is mounted waits for its device's unit, and where no udev runs
    # there never is one.
    there = " && ".join(f"mountpoint -q {mount}" for mount in mounts)
    tries = f"until {{ {there}; }} || systemctl start {' '.join(mounts)}; do sleep {RETRY_SECONDS}; done"
    starts = "".join(
        f"; systemctl is-enabled --quiet {unit} && systemctl start --no-block {unit}"
        for unit in then
    )
    return (
        "# Written by Salt.\n"
        "[Unit]\n"
        f"Description={description}\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n"
        "\n"
        "[Service]\n"
        # exec and not oneshot: the boot does not wait for it.
        "Type=exec\n"
        f"ExecStart=/bin/sh -c '{tries}{starts}; true'\n"
        "RemainAfterExit=yes\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


def dropin(mounts: Sequence[str]) -> str:
    """Return a drop-in that keeps a service from starting without its mounts.

    mounts
        Mount points. A service that started on the bare folder would find an empty world, and fill
        the disk below.
    """
    return f"# Written by Salt.\n[Unit]\nRequiresMountsFor={' '.join(mounts)}\n"


def parse_mountinfo(text: str) -> list[dict[str, str]]:
    """Return what ``/proc/self/mountinfo`` says, one mapping for each mount, the newest last.

    Keys ``where``, ``root``, ``fstype``, ``source``, ``options``, ``device`` (major:minor).
    """
    mounts: list[dict[str, str]] = []
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        fields, (fstype, what, superoptions, *_) = front.split(), [*back.split(), "", "", ""]
        mounts.append({
            "device": fields[2],
            "root": _unescape(fields[3]),
            "where": _unescape(fields[4]),
            "options": f"{fields[5]},{superoptions}",
            "fstype": fstype,
            "source": _unescape(what),
        })  # fmt: skip
    return mounts


def _unescape(field: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)
