"""Edits of the small text files that this project shares with the system, as pure functions.

Each takes the text of a file and returns what it should be; nothing is read or written but by
:func:`read` and :func:`write`. A function that has nothing to change returns its input unchanged,
byte for byte, so that callers can compare.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

__virtualname__ = "conffiles"

HOSTS_BEGIN = "# BEGIN saltberry: the rack's nodes, from the pillar; edits here are lost"
HOSTS_END = "# END saltberry"
_BLOCK_BEGIN = "# BEGIN saltberry"
CONFIG_TXT_BEGIN = f"{_BLOCK_BEGIN}: from the pillar's system.config_txt; edits here are lost"
FSTAB_NOTE = "# saltberry, no swap on a Kubernetes node: "


def read(path: str | Path) -> str:
    """Return a file's text with its line ends as they are; an absent file is empty.

    Bytes that are no UTF-8 survive a read and a write.
    """
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def write(path: str | Path, text: str, mode: int = 0o644) -> None:
    """Replace a file's content so that a power cut leaves the old or the new text, never half.

    path
        The file; missing folders are made.
    text
        Its whole new content.
    mode
        Permissions of a new file. An existing one keeps its own.

    A file that is itself a mount point (``/etc/hosts`` in a container) cannot be replaced by a
    rename and is written in place. Raises OSError.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode("utf-8", "surrogateescape")
    spare = target.with_name(f".{target.name}.saltberry")
    try:
        _write_and_sync(spare, data)
        _copy_owner(target, spare, mode)
        spare.replace(target)
    except OSError as exc:
        with contextlib.suppress(FileNotFoundError):
            spare.unlink()
        if exc.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _write_and_sync(target, data)
    _sync_folder(target.parent)


def diff(old: str, new: str) -> str:
    """Return the lines that differ, as a unified diff without its head, for a state's changes."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=1, lineterm="")
    return "\n".join(list(lines)[2:])


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_owner(old: Path, new: Path, mode: int) -> None:
    """Give ``new`` the permissions of ``old``; FAT, where the boot partition lives, has none."""
    with contextlib.suppress(PermissionError):
        try:
            stat = old.stat()
        except FileNotFoundError:
            new.chmod(mode)
            return
        new.chmod(stat.st_mode & 0o7777)
        os.chown(new, stat.st_uid, stat.st_gid)


def _sync_folder(path: Path) -> None:
    """Make a rename durable, where the file system can."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# --- the kernel's command line ------------------------------------------------------------------


def _has_flag(words: Sequence[str], flag: str) -> bool:
    """Say whether a flag is set; ``cgroup_enable=cpuset,memory`` sets ``cgroup_enable=memory``."""
    key, _, value = flag.partition("=")
    return any(
        word == flag
        or (
            key == "cgroup_enable"
            and word.startswith("cgroup_enable=")
            and value in word.partition("=")[2].split(",")
        )
        for word in words
    )


def _without_contradiction(word: str, flag: str) -> str:
    """Return one word of the command line without what would undo ``flag``, possibly empty."""
    key, _, value = flag.partition("=")
    word_key, _, word_value = word.partition("=")
    if key == "cgroup_enable" and word_key == "cgroup_disable":
        left = [controller for controller in word_value.split(",") if controller != value]
        return f"cgroup_disable={','.join(left)}" if left else ""
    if key == "cgroup_memory" and word_key == key and word_value != value:
        return ""
    return word


def _drop_contradictions(parts: Sequence[str], flag: str) -> list[str]:
    """Return words and the spaces between them without what would undo ``flag``.

    A word that goes takes the space after it with it.
    """
    kept: list[str] = []
    dropped = False
    for part in parts:
        if part.isspace() and dropped:
            dropped = False
            continue
        cleaned = part if part.isspace() else _without_contradiction(part, flag)
        dropped = bool(part) and not cleaned
        if cleaned or not part:
            kept.append(cleaned)
    return kept


def cmdline_missing(text: str, flags: Sequence[str]) -> list[str]:
    """Return those of ``flags`` that the command line in ``text`` does not have."""
    words = text.split()
    return [flag for flag in flags if not _has_flag(words, flag)]


def cmdline_with(text: str, flags: Sequence[str]) -> str:
    """Return a ``cmdline.txt`` that has all ``flags``.

    text
        The file. The firmware takes one line, so only the first line that has words is edited.
        Everything else stays as it is: other flags, their order and spaces, line ends, and
        whether the file ends with one.
    flags
        For instance ``["cgroup_enable=memory", "cgroup_memory=1"]``. Words that contradict one
        (``cgroup_disable=memory``, ``cgroup_memory=0``) go.

    Raises ValueError for a file without a word: adding to it would make a Pi that cannot boot.
    """
    lines = text.splitlines(keepends=True)
    at = next((number for number, line in enumerate(lines) if line.strip()), None)
    if at is None:
        raise ValueError("the kernel command line is empty: it should name at least root=")
    body = lines[at].rstrip("\r\n")
    end = lines[at][len(body) :]
    # Splitting at the spaces and keeping them leaves untouched words exactly where they are.
    parts = re.split(r"(\s+)", body)
    for flag in flags:
        parts = _drop_contradictions(parts, flag)
    new = "".join(parts)
    missing = cmdline_missing(new, flags)
    if missing or new != body:
        new = " ".join([new.rstrip(), *missing])
    lines[at] = new + end
    return "".join(lines)


# --- /etc/hosts ---------------------------------------------------------------------------------


def _outside_block(text: str) -> list[str]:
    """Return the lines that are not ours. The block is last, so one without an end ends there."""
    kept, ours = [], False
    for line in text.splitlines():
        if line.startswith(_BLOCK_BEGIN):
            ours = True
        elif ours and line.startswith(HOSTS_END):
            ours = False
        elif not ours:
            kept.append(line)
    return kept


def _misleads(address: str, managed: str) -> bool:
    """Say whether a line's address for a name of ours would hide the managed one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback or (parsed.version == 4 and address != managed)


def _without_names(line: str, names: Mapping[str, str]) -> str | None:
    """Return a hosts line without the names it gives a wrong address; None if none is left."""
    body, hash_sign, comment = line.partition("#")
    words = body.split()
    if len(words) < 2:
        return line
    left = [word for word in words[1:] if word not in names or not _misleads(words[0], names[word])]
    if len(left) == len(words) - 1:
        return line
    if not left:
        return None
    return "\t".join([words[0], " ".join(left)]) + (f" {hash_sign}{comment}" if comment else "")


def hosts_with(text: str, entries: Mapping[str, Sequence[str]]) -> str:
    """Return an ``/etc/hosts`` with a managed block at its end that names the rack's nodes.

    text
        The file. A line outside the block that gives a managed name another address loses that
        name, above all Debian's ``127.0.1.1 <own name>``: the API server and etcd would be told
        to listen on and advertise loopback.
    entries
        ``{address: [names]}``.
    """
    names = {name: address for address, aliases in entries.items() for name in aliases}
    kept = [_without_names(line, names) for line in _outside_block(text)]
    lines = [line for line in kept if line is not None]
    if entries:
        lines.append(HOSTS_BEGIN)
        in_order = sorted(entries.items(), key=lambda entry: ip_address(entry[0]).packed)
        lines += [f"{address}\t{' '.join(aliases)}" for address, aliases in in_order]
        lines.append(HOSTS_END)
    new = "".join(f"{line}\n" for line in lines)
    # A file that only lacks its last newline is right as it is.
    return text if new == f"{text}\n" else new


# --- /etc/fstab ---------------------------------------------------------------------------------


def _is_swap(line: str) -> bool:
    fields = line.split()
    return len(fields) >= 3 and not fields[0].startswith("#") and fields[2] == "swap"


def fstab_swap(text: str) -> list[str]:
    """Return the lines of an ``/etc/fstab`` that turn swap on."""
    return [line for line in text.splitlines() if _is_swap(line)]


def fstab_without_swap(text: str) -> str:
    """Return an ``/etc/fstab`` with its swap lines commented out, the rest as it is."""
    return "".join(
        f"{FSTAB_NOTE}{line}" if _is_swap(line) else line for line in text.splitlines(keepends=True)
    )


# --- config.txt ---------------------------------------------------------------------------------


def config_txt_with(text: str, values: Mapping[str, object]) -> str:
    """Return a Pi's ``config.txt`` with a managed block at its end.

    text
        The file; all but the block stays as it is.
    values
        ``{name: value, or list of values for one line each}``; empty: no block.

    The block starts with ``[all]``: the file may end in a section for another model.
    """
    block = []
    for name, given in values.items():
        block += [f"{name}={item}" for item in (given if isinstance(given, list) else [given])]
    kept = "".join(f"{line}\n" for line in _outside_block(text))
    if not block:
        return kept if _BLOCK_BEGIN in text else text
    lines = [CONFIG_TXT_BEGIN, "[all]", *block, HOSTS_END]
    return kept + "".join(f"{line}\n" for line in lines)


# --- cloud-init ---------------------------------------------------------------------------------

# What would give the node another name, or write /etc/hosts anew, at every boot
_CLOUD_NAMERS = ("set_hostname", "update_hostname", "update_etc_hosts")


def cloud_modules_kept(text: str) -> list[object] | None:
    """Return cloud-init's modules of the first stage without those that meddle with names.

    text
        ``/etc/cloud/cloud.cfg``.

    The list is the system's own word: what the card's user-data says of ``manage_etc_hosts`` would
    win over any other setting of ours. Returns None where none of them is there.

    Raises ValueError for a file that is no YAML.
    """
    import yaml

    try:
        said = yaml.safe_load(text) or {}
    except yaml.YAMLError as exc:
        raise ValueError("is no YAML") from exc
    modules = said.get("cloud_init_modules") if isinstance(said, dict) else None
    if not isinstance(modules, list):
        return None

    def name(module: object) -> str:
        first = module[0] if isinstance(module, list) and module else module
        return str(first).replace("-", "_")

    kept = [module for module in modules if name(module) not in _CLOUD_NAMERS]
    return kept if len(kept) < len(modules) else None
