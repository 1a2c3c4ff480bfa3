"""Compare this node with its states, and say what differs in few words that hold no secrets.

``state.apply test=True`` from the master would do for the comparison. But whole diffs of files, of
those with keys in them too, would lie in the master's job cache for half a day. So a node looks at
itself, masks what it found (``_utils/masking.py``), and returns only what differs.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import salt.defaults.exitcodes

__virtualname__ = "drift"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]

CLEAN = "clean"
DRIFTED = "drifted"
RENDER_ERROR = "render error"
IN_PROGRESS = "apply in progress"

# An answer has to stay small, whatever has happened to a node: about 300 kB at the very most
MOST_STATES = 60
MOST_LINES = 120
LONGEST_TEXT = 4000

# What Salt says of a state that did not run because another one failed: never the cause
_FOLLOWED = ("One or more requisite failed", "State was not run because")
# What service.running says in test mode when what it watches changes, and it is not running anyway
_DEAD = "Service is set to be started"
_TRIGGERS = ("watch", "watch_any", "onchanges", "onchanges_any", "listen", "listen_any")
_RUNNING = re.compile(r'The function "state\..*" is running as PID ')

_ZONE = Path("/sys/class/thermal/thermal_zone0/temp")
# Raspberry Pi OS' kernels have the firmware's word here, without a program
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_MODEL = Path("/proc/device-tree/model")
_BITS = (
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
)


def look() -> dict[str, Any]:
    """Run this node's highstate in test mode and return what differs. Changes nothing.

    Returns ``{"status", "reason", "states", "seconds", "drift", "more", "vitals"}``:

    * ``status``: ``clean``, ``drifted``, ``render error`` (``reason`` says where) or ``apply in
      progress`` (states run on this node, so that there is nothing to compare with);
    * ``states``: how many there are;
    * ``drift``: for each state that would change something or cannot be, ``{"id", "sls",
      "function", "name", "comment", "changes", "failed", "follows"}``; ``follows`` holds the ids of
      the drifted states that alone make this one run (a restart after a changed file); secrets are
      masked;
    * ``more``: how many drifted states were left out of ``drift``;
    * ``vitals``: see :func:`vitals`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' drift.look
    """
    began = time.monotonic()
    # A state that fails in test mode is a finding, not a failure of this function.
    before = __context__.get("retcode", 0)
    found = _compare()
    __context__["retcode"] = before or salt.defaults.exitcodes.EX_OK
    return {**found, "seconds": round(time.monotonic() - began, 1), "vitals": vitals()}


def _compare() -> dict[str, Any]:
    if busy := _busy():
        return _answer(IN_PROGRESS, busy)
    # No progress events: they would carry unmasked changes over the master's bus.
    returned = __salt__["state.apply"](test=True, queue=False, state_events=False)
    # States that began meanwhile have changed what was being compared.
    if busy := _busy():
        return _answer(IN_PROGRESS, busy)
    if not isinstance(returned, Mapping) or not all(map(_is_state, returned.values())):
        return _refused(returned)
    wrong = [chunk for chunk in returned.values() if _differs(chunk)]
    if not wrong:
        return _answer(CLEAN, states=len(returned))
    drift = _described(sorted(wrong, key=lambda chunk: chunk.get("__run_num__", 0)), returned)
    more = len(drift) - MOST_STATES
    return _answer(DRIFTED, states=len(returned), drift=drift[:MOST_STATES], more=max(0, more))


def _answer(status: str, reason: str = "", **more: Any) -> dict[str, Any]:
    return {"status": status, "reason": reason, "states": 0, "drift": [], "more": 0, **more}


def _busy() -> str:
    """Say which states run on this node now; "" when none do."""
    running = __salt__["state.running"]()
    return _short("; ".join(map(str, running))) if running else ""


def _refused(returned: Any) -> dict[str, Any]:
    """Return what became of a highstate that did not get as far as its states."""
    errors = returned if isinstance(returned, Sequence) and not isinstance(returned, str) else []
    said = "\n".join(map(str, errors)) or str(returned)
    status = IN_PROGRESS if _RUNNING.match(said) else RENDER_ERROR
    return _answer(status, __utils__["masking.text"](_short(said), _known()))


def _is_state(chunk: Any) -> bool:
    return isinstance(chunk, Mapping) and "__run_num__" in chunk and "result" in chunk


def _differs(chunk: Mapping[str, Any]) -> bool:
    followed = str(chunk.get("comment", "")).startswith(_FOLLOWED)
    return chunk["result"] is None or (chunk["result"] is False and not followed)


def _known() -> set[str]:
    values: set[str] = __utils__["masking.values_of"](dict(__pillar__))
    return values


def _described(
    wrong: Sequence[Mapping[str, Any]], returned: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what is to be said of the states that differ."""
    functions = {id(chunk): _function(tag) for tag, chunk in returned.items()}
    low = _low()
    known = _known()
    found = []
    for chunk in wrong:
        function = functions[id(chunk)]
        asked = _asked_for(chunk, function, low)
        mine = known | __utils__["masking.values_of"](asked)
        name = str(chunk.get("name", ""))
        hidden = asked.get("show_changes") is False or _secret(name, asked)
        changes = _shown(chunk.get("changes") or {}, mine, hidden)
        found.append({
            "id": _short(str(chunk.get("__id__", "?"))),
            "sls": _short(str(chunk.get("__sls__", ""))),
            "function": function,
            "name": __utils__["masking.text"](_short(name), mine),
            "comment": __utils__["masking.text"](_short(str(chunk.get("comment", ""))), mine),
            "changes": changes,
            "failed": chunk["result"] is False,
            "follows": _causes(chunk, asked, wrong, functions),
        })  # fmt: skip
    return found


def _function(tag: str) -> str:
    """Return ``file.managed`` of ``file_|-id_|-name_|-managed``."""
    parts = tag.split("_|-")
    return f"{parts[0]}.{parts[-1]}"


def _low() -> list[Mapping[str, Any]]:
    """Return the compiled states with their arguments; empty when they do not compile now."""
    low = __salt__["state.show_lowstate"](queue=False)
    return [chunk for chunk in low if isinstance(chunk, Mapping)] if isinstance(low, list) else []


def _asked_for(
    chunk: Mapping[str, Any], function: str, low: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the arguments that a state was given."""
    same = [
        given
        for given in low
        if given.get("__id__") == chunk.get("__id__")
        and f"{given.get('state')}.{given.get('fun')}" == function
    ]
    named = [given for given in same if given.get("name") == chunk.get("name")]
    # module.run answers with a name that it was not given: that of the function it ran.
    found = named or (same if len(same) == 1 else [])
    return found[0] if found else {}


def _secret(name: str, asked: Mapping[str, Any]) -> bool:
    """Say whether a state is about a file whose text must not be shown."""
    mode = str(asked.get("mode") or "")
    if re.fullmatch(r"0?[0-7]{3,4}", mode) and __utils__["masking.secret_file"](name, int(mode, 8)):
        return name.startswith("/")
    return name.startswith("/") and _secret_file(name)


def _secret_file(path: str) -> bool:
    """Say whether a file that may be there must not be shown."""
    mode = None
    with contextlib.suppress(OSError, ValueError):
        found = Path(path).stat()
        mode = found.st_mode if stat.S_ISREG(found.st_mode) else None
    secret: bool = __utils__["masking.secret_file"](path, mode)
    return secret


def _shown(changes: Any, known: Collection[str], hidden: bool) -> Any:
    """Return a state's changes, cut and masked."""
    if not isinstance(changes, Mapping):
        return __utils__["masking.tree"](_cut(changes), known, hidden)
    shown: dict[str, Any] = {}
    for key, value in _cut(changes).items():
        # file.recurse has the changes of many files in one state
        mine = hidden or (key.startswith("/") and _secret_file(key))
        shown.update(__utils__["masking.tree"]({key: value}, known, mine))
    return shown


def _cut(value: Any, depth: int = 0) -> Any:
    """Return nested data with its texts and lists cut to a bearable size."""
    if isinstance(value, Mapping):
        items = list(value.items())
        kept = {_short(str(key)): _cut(item, depth + 1) for key, item in items[:MOST_LINES]}
        return {**kept, "…": f"{len(items) - MOST_LINES} more"} if items[MOST_LINES:] else kept
    if isinstance(value, list):
        return [_cut(item, depth + 1) for item in value[:MOST_LINES]]
    return _short(value) if isinstance(value, str) else value


def _short(words: str) -> str:
    """Return a text with a bearable number of lines and characters."""
    lines = words.splitlines()
    if len(lines) > MOST_LINES:
        words = "\n".join([*lines[:MOST_LINES], f"… {len(lines) - MOST_LINES} more lines"])
    return words if len(words) <= LONGEST_TEXT else f"{words[:LONGEST_TEXT]} …"


def _causes(
    chunk: Mapping[str, Any],
    asked: Mapping[str, Any],
    wrong: Sequence[Mapping[str, Any]],
    functions: Mapping[int, str],
) -> list[str]:
    """Return the ids of the drifted states without which this one would have nothing to do.

    A state with ``onchanges`` never runs otherwise. One with ``watch`` has changes of its own when
    it differs by itself, and none when it is only told to restart.
    """
    if chunk["result"] is False or str(chunk.get("comment")) == _DEAD:
        return []
    kinds = [kind for kind in _TRIGGERS if asked.get(kind)]
    if not any(kind.startswith("onchanges") for kind in kinds) and chunk.get("changes"):
        return []
    wanted = list(_requisites(asked, kinds))
    return [
        str(other["__id__"])
        for other in wrong
        if other is not chunk and _meets(other, functions[id(other)].partition(".")[0], wanted)
    ]


def _requisites(asked: Mapping[str, Any], kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    for kind in kinds:
        for item in asked[kind]:
            pairs = item.items() if isinstance(item, Mapping) else [("", item)]
            yield from ((str(state), str(name)) for state, name in pairs)


def _meets(other: Mapping[str, Any], state: str, wanted: Sequence[tuple[str, str]]) -> bool:
    names = (other.get("__id__"), other.get("name"))
    return any(
        (kind == "sls" and name == other.get("__sls__"))
        or (kind in ("", "id", state) and name in names)
        for kind, name in wanted
    )


# --- how the node is -------------------------------------------------------------------------------


def vitals() -> dict[str, Any]:
    """Return what a person looks at first: heat, throttling, room on the disk, time since the boot.

    ``{"model", "temperature", "throttled", "uptime", "storage"}``; None for what this machine does
    not tell. ``temperature`` is in °C; ``throttled`` lists what the firmware complains of, now or
    since the boot; ``storage`` is ``{"backend", "path", "free", "size"}`` in bytes, of the disk that
    the containers are on, or of the share.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' drift.vitals
    """
    return {
        "model": _read(_MODEL).strip("\0 \n") or None,
        "temperature": _temperature(),
        "throttled": _throttled(),
        "uptime": _uptime(),
        "storage": _storage(),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _temperature() -> float | None:
    said = _read(_ZONE)
    return round(int(said) / 1000, 1) if re.fullmatch(r"-?[0-9]{1,7}", said) else None


def _throttled() -> list[str] | None:
    said = _read(_THROTTLED)
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", said):
        return None
    bits = int(said, 16)
    return [
        *(word for bit, word in _BITS if bits >> bit & 1),
        *(f"{word} since the boot" for bit, word in _BITS if bits >> bit & 0x10001 == 0x10000),
    ]  # fmt: skip


def _uptime() -> int | None:
    words = _read(Path("/proc/uptime")).split()
    return int(float(words[0])) if words else None


def _storage() -> dict[str, Any] | None:
    """Return where this node's data is and how much room there is."""
    node = __pillar__.get("node") or {}
    roles = node.get("roles") or []
    share = (__pillar__.get("nfs") or {}).get("path")
    if "storage" in roles and share:
        backend, path = "share", str(share)
    else:
        settings = __utils__["rackspec.container_storage"](__pillar__, str(__opts__["id"]))
        backend = str(settings.get("backend", "local"))
        path = "/var/lib" if backend == "local" else str(settings.get("mount", "/var/lib"))
    with contextlib.suppress(OSError):
        room = os.statvfs(path)
        size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        return {"backend": backend, "path": path, "free": free, "size": size}
    return None
