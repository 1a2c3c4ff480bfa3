"""Where docker and containerd keep their data: read and edited in the files that say so.

Pure functions over texts. An edit changes the one value and leaves order, indentation and comments
as they were; what cannot be edited that way is refused, never rewritten. Docker takes its folder
from the unit's command line (``--data-root``, before 17.05 ``--graph`` or ``-g``), else from
``data-root`` (``graph``) in ``daemon.json``; containerd from ``--root``, else from ``root`` in
``config.toml``.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

__virtualname__ = "engine_config"

DEFAULT_ROOTS = {"docker": "/var/lib/docker", "containerd": "/var/lib/containerd"}
# containerd takes its long flags with one hyphen as well.
_ROOT_FLAGS = {"docker": ("--data-root", "--graph", "-g"), "containerd": ("--root", "-root")}
_CONFIG_FLAGS = {"docker": ("--config-file",), "containerd": ("--config", "-config", "-c")}
# docker's short flag may have its value right behind it.
_ATTACHED = ("-g",)
_PROGRAMS = {"docker": "dockerd", "containerd": "containerd"}

_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"']\S*)"""
_SPACE = re.compile(r"[ \t\r\n]*")
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_TOML_ROOT = re.compile(
    r"""^([ \t]*(?:root|"root"|'root')[ \t]*=[ \t]*)(?!"{3}|'{3})("[^"\n]*"|'[^'\n]*')([^\n]*)\n?""",
    re.MULTILINE,
)
_TOML_PREAMBLE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*")
_TOML_VERSION = re.compile(r"^[ \t]*version[ \t]*=[^\n]*\n?", re.MULTILINE)


# --- the unit's command line --------------------------------------------------------------------


def parse_unit(files: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return what a service's files say of its command.

    files
        ``[[path, text], …]`` in the order in which systemd reads them: the unit, then its drop-ins.

    Returns ``{"command", "path", "environment", "environment_files"}``: the last ``ExecStart=`` and
    the file it is in, every ``Environment=`` and the paths of every ``EnvironmentFile=``.
    """
    found: dict[str, Any] = {
        "command": "", "path": "", "environment": "", "environment_files": [],
    }  # fmt: skip
    for path, text in files:
        section = ""
        for line in re.sub(r"\\\n", " ", text).splitlines():
            body = line.strip()
            if body.startswith("["):
                section = body
            key, sign, value = body.partition("=")
            if section != "[Service]" or not sign or body[0] in "#;":
                continue
            value = value.strip()
            if key.strip() == "ExecStart":
                # An empty one resets what came before; a service has one command.
                found.update(command=value, path=path)
            elif key.strip() == "Environment":
                found["environment"] += f" {value}" if value else ""
            elif key.strip() == "EnvironmentFile":
                found["environment_files"] += [value.lstrip("-")] if value else []
    return found


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command.lstrip("@-:+!"))
    except ValueError as exc:
        raise ValueError(f"the command line {command!r} cannot be read: {exc}") from exc


def _flag(words: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the value of the last of some flags on a command line, None without."""
    value = None
    for number, word in enumerate(words):
        for name in names:
            if word == name and number + 1 < len(words):
                value = words[number + 1]
            elif word.startswith(f"{name}="):
                value = word[len(name) + 1 :]
            elif name in _ATTACHED and word.startswith(name) and len(word) > len(name):
                value = word[len(name) :]
    return value


def command_root(engine: str, command: str) -> str | None:
    """Return the folder that a command line gives an engine, None when it gives none.

    engine
        ``docker`` or ``containerd``.
    command
        As ``ExecStart=`` has it.

    Raises ValueError for a command line without end of a quote.
    """
    return _flag(_words(command), _ROOT_FLAGS[engine])


def flag_root(engine: str, words: Sequence[str]) -> str | None:
    """Return the folder that a running process's words give an engine, None when they give none."""
    return _flag(words, _ROOT_FLAGS[engine])


def default_root(engine: str) -> str:
    """Return where an engine keeps its data when nobody says otherwise."""
    return DEFAULT_ROOTS[engine]


def config_path(engine: str, command: str) -> str:
    """Return the path of an engine's configuration, which its command line may set."""
    default = {"docker": "/etc/docker/daemon.json", "containerd": "/etc/containerd/config.toml"}
    return _flag(_words(command), _CONFIG_FLAGS[engine]) or default[engine]


def command_without_root(engine: str, command: str) -> str:
    """Return a command line without the flags that set the folder, the rest as it was.

    Raises ValueError when the flag is where it cannot be taken out (inside a shell's script).
    """
    words = _words(command)
    if words and words[0].rsplit("/", 1)[-1] != _PROGRAMS[engine]:
        raise ValueError(f"the command does not run {_PROGRAMS[engine]} itself: {command}")
    names = "|".join(
        re.escape(name) + ("(?:=|\\s*)" if name in _ATTACHED else "(?:=|\\s+)")
        for name in _ROOT_FLAGS[engine]
    )
    left = re.sub(rf"\s+(?:{names}){_VALUE}(?=\s|$)", "", command)
    if command_root(engine, left) is not None:
        raise ValueError(f"the folder cannot be taken out of the command line: {command}")
    return left


def names_root(engine: str, text: str) -> bool:
    """Say whether a text (an environment variable's, a shell script's) sets the folder by a flag."""
    names = "|".join(
        re.escape(name) + (r"(?:[=\s]|/)" if name in _ATTACHED else r"[=\s]")
        for name in _ROOT_FLAGS[engine]
    )
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(re.search(rf"(?:^|[\s\"'=])(?:{names})", line) for line in lines)


# --- daemon.json --------------------------------------------------------------------------------


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _members(text: str) -> list[tuple[str, int, int, int]]:
    """Return ``(key, start of the key, start and end of the value)`` of a JSON object."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("it is no JSON object")
    json.loads(text)
    decoder, found = json.JSONDecoder(), []
    at = _skip(text, at + 1)
    while text[at] == '"':
        key, after = scanstring(text, at + 1)
        value = _skip(text, _skip(text, after) + 1)
        _, end = decoder.raw_decode(text, value)
        found.append((key, at, value, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def json_root(text: str) -> str | None:
    """Return the folder that a ``daemon.json`` sets, None when it sets none.

    Raises ValueError for a text that is no JSON object; dockerd would not start with it either.
    """
    if not text.strip():
        return None
    try:
        _members(text)
        settings = json.loads(text)
    except (ValueError, IndexError) as exc:
        raise ValueError(f"it is no valid JSON: {exc}") from exc
    value = settings.get("data-root", settings.get("graph"))
    return str(value) if value else None


def json_with_root(text: str, root: str | None) -> str:
    """Return a ``daemon.json`` that sets the folder to ``root``; None takes the setting out.

    Everything else stays byte for byte. Raises ValueError for a text that is no JSON object.
    """
    json_root(text)
    if not text.strip():
        return f'{{\n  "data-root": {json.dumps(root)}\n}}\n' if root else text
    for key in ("graph", "data-root"):
        # The old name goes; one member at a time, as offsets move.
        for name, start, value, end in reversed(_members(text)):
            if name != key:
                continue
            if root is not None and key == "data-root":
                return text[:value] + json.dumps(root) + text[end:]
            text = _without(text, start, end)
    if root is None:
        return text
    members = _members(text)
    if not members:
        at = text.index("{") + 1
        return f'{text[:at]}\n  "data-root": {json.dumps(root)}\n{text[at:].lstrip()}'
    last = members[-1][3]
    first = members[0][1]
    indent = text[text.index("{") + 1 : first]
    return f'{text[:last]},{indent or " "}"data-root": {json.dumps(root)}{text[last:]}'


def _without(text: str, start: int, end: int) -> str:
    """Return a JSON object's text without one member and the comma that belonged to it."""
    after = _skip(text, end)
    if text[after] == ",":
        return text[:start] + text[_skip(text, after + 1) :]
    before = text[:start].rstrip()
    if before.endswith(","):
        return before[:-1] + text[end:]
    return before + text[after:]


# --- config.toml --------------------------------------------------------------------------------


def toml_root(text: str) -> str | None:
    """Return the folder that a containerd ``config.toml`` sets, None when it sets none.

    Raises ValueError for a text that is no TOML; containerd would not start with it either.
    """
    try:
        value = tomllib.loads(text).get("root")
    except tomllib.TOMLDecodeError as exc:
        raise ValueError(f"it is no valid TOML: {exc}") from exc
    return str(value) if value else None


def toml_with_root(text: str, root: str | None) -> str:
    """Return a ``config.toml`` that sets the folder to ``root``; None takes the setting out.

    The line goes right below ``version``, where Saltberry's own configuration has it too. Raises
    ValueError for a text that is no TOML or writes the setting in a way that cannot be edited.
    """
    toml_root(text)
    before = tomllib.loads(text)
    table = _TABLE.search(text)
    head, tail = (text[: table.start()], text[table.start() :]) if table else (text, "")
    line = _TOML_ROOT.search(head)
    if line and root is None:
        head = head[: line.start()] + head[line.end() :]
    elif line:
        head = head[: line.start(2)] + json.dumps(root) + head[line.end(2) :]
    elif root is not None and "root" not in before:
        head = _toml_inserted(head, root, new=not text.strip())
    after = tomllib.loads(head + tail)
    if after.get("root") != root or _other(before) != _other(after, new=not text.strip()):
        raise ValueError("it writes root in a way that this program cannot edit; set it yourself")
    return head + tail


def _toml_inserted(head: str, root: str, new: bool) -> str:
    if new:
        # A file without a version is read as of version 1, which newer containerd refuses.
        return f"{head}version = 2\nroot = {json.dumps(root)}\n"
    version = _TOML_VERSION.search(head)
    # Below what the file says of itself at its top.
    at = version.end() if version else _TOML_PREAMBLE.match(head).end()  # type: ignore[union-attr]
    line = f"root = {json.dumps(root)}\n"
    if at and not head[:at].endswith("\n"):
        line = f"\n{line}"
    return head[:at] + line + head[at:]


def _other(settings: dict[str, Any], new: bool = False) -> dict[str, Any]:
    """Return settings without the one that is edited, and without the version of a new file."""
    ours = {"root", "version"} if new else {"root"}
    return {key: value for key, value in settings.items() if key not in ours}


# --- our drop-ins -------------------------------------------------------------------------------

# The name sorts behind those that people and packages use ("override.conf" is systemctl edit's), as
# the last ExecStart= counts.
DROP_IN = "zz-saltberry-storage.conf"


def drop_in_name() -> str:
    """Return the name of our drop-in, which sorts behind all others."""
    return DROP_IN


def drop_in(target: str | None, command: str | None = None) -> str | None:
    """Return the drop-in of an engine whose data is below ``target``; None when none is needed.

    target
        The folder whose file ``.saltberry-storage`` tells that the right disk is mounted; None for
        the system's own disk. Without that file the engine does not start, rather than begin anew
        on the bare mount point.
    command
        Replaces the unit's own ``ExecStart=``, one that set the folder by a flag.
    """
    lines = []
    if target is not None:
        lines += [
            "[Unit]",
            f"RequiresMountsFor={target}",
            f"AssertPathExists={target}/.saltberry-storage",
        ]
    if command is not None:
        lines += ["[Service]", "ExecStart=", f"ExecStart={command}"]
    if not lines:
        return None
    head = "# Written by Salt (container_storage) when the data of this service was moved."
    return "\n".join([head, *lines]) + "\n"
