"""Put what the nodes found about themselves into one document, and that into words, XML and metrics.

Pure Python, no Salt. A node's answer is a node's word: :func:`row` takes from it only what has the
right shape, bounded and without control characters, so that everything after it need not ask again.
"""

from __future__ import annotations

import datetime
import difflib
import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

CLEAN = "clean"
DRIFTED = "drifted"
UNREACHABLE = "unreachable"
RENDER_ERROR = "render error"
IN_PROGRESS = "apply in progress"
STATUSES = (CLEAN, DRIFTED, UNREACHABLE, RENDER_ERROR, IN_PROGRESS)
# Nodes of which nobody can say whether they are as they should be
UNCHECKED = (UNREACHABLE, RENDER_ERROR, IN_PROGRESS)

EXIT_CLEAN, EXIT_DRIFT, EXIT_UNCHECKED = 0, 1, 2

# A node may answer anything
MOST_STATES = 60
MOST_ITEMS = 150
LONGEST = 4200
DEEPEST = 6
# Characters of one state's changes
ROOM = 40_000

# Salt's word under every file that would be changed
_BOILERPLATE = "Note: No changes made, actual changes may\nbe different due to other states."

Mask = Callable[[Any], Any]


# --- one node --------------------------------------------------------------------------------------


def row(answer: Any, *, now: float, mask: Mask = lambda value: value) -> dict[str, Any]:
    """Return what is known of a node after its answer.

    Args:
        answer: what ``drift.look`` returned there, or an error text.
        now: seconds since the epoch.
        mask: takes secrets out of nested data; once more, for a node need not have done it.

    Returns:
        ``{"status", "reason", "states", "seconds", "drift", "more", "vitals", "checked"}``.
    """
    if not isinstance(answer, Mapping) or answer.get("status") not in STATUSES:
        said = answer if isinstance(answer, str) else "its answer makes no sense"
        return unchecked(str(mask(_text(said))), now=now)
    entries = [entry for entry in _listed(answer.get("drift")) if isinstance(entry, Mapping)]
    status = str(answer["status"])
    if (status == DRIFTED) != bool(entries):
        return unchecked("its answer contradicts itself", now=now)
    more = _number(answer.get("more"))
    return {
        "status": status,
        "reason": str(mask(_text(str(answer.get("reason") or "")))),
        "states": int(_number(answer.get("states"))),
        "seconds": round(_number(answer.get("seconds")), 1),
        "drift": [_entry(entry, mask) for entry in entries[:MOST_STATES]],
        "more": int(more) + max(0, len(entries) - MOST_STATES),
        "vitals": _vitals(answer.get("vitals")),
        "checked": now,
    }


def unchecked(reason: str, *, now: float, status: str = UNREACHABLE) -> dict[str, Any]:
    """Return the row of a node that could not be compared, with the reason in plain words."""
    return {
        "status": status, "reason": _text(reason), "states": 0, "seconds": 0.0, "drift": [], "more": 0,
        "vitals": {}, "checked": now,
    }  # fmt: skip


def _entry(entry: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    """Return one drifted state of a node's answer."""
    texts = ("id", "sls", "function", "name", "comment")
    return {
        **{key: str(mask(_text(_said(entry.get(key))))) for key in texts},
        "changes": mask(bounded(entry.get("changes") or {})),
        "failed": entry.get("failed") is True,
        "follows": [_text(str(name)) for name in _listed(entry.get("follows"))[:MOST_STATES]],
    }


def _said(value: Any) -> str:
    return str(value or "").replace(_BOILERPLATE, "").rstrip()


def _listed(value: Any) -> list[Any]:
    """Return a list that a node gave, an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def _number(value: Any) -> float:
    """Return a number that a node gave, 0 for anything else."""
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fine and 0 <= value < 1e12 else 0.0


def _text(words: str) -> str:
    """Return a text that may go to terminals and files: bounded, no control characters."""
    shown = "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in words[: LONGEST + 1]
    )
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} …"


def bounded(value: Any) -> Any:
    """Return nested data as plain, bounded data: mappings, lists, numbers and clean texts."""
    return _bounded(value, 0, [ROOM])


def _bounded(value: Any, depth: int, room: list[int]) -> Any:
    """Return a part of nested data; ``room`` is what is left for all of it."""
    if room[0] <= 0:
        return "…"
    if depth < DEEPEST and isinstance(value, Mapping):
        items = itertools.islice(value.items(), MOST_ITEMS)
        return {
            _taken(str(key), room): _bounded(item, depth + 1, room)
            for key, item in items
            if room[0] > 0
        }
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [_bounded(item, depth + 1, room) for item in value[:MOST_ITEMS] if room[0] > 0]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 1e15:
        room[0] -= 8
        return value
    return _taken(str(value), room)


def _taken(words: str, room: list[int]) -> str:
    """Return a clean text, and take it off the room that is left."""
    clean = _text(words)
    room[0] -= len(clean) + 4
    return clean


def _vitals(said: Any) -> dict[str, Any]:
    """Return what a node says of its heat and room, as far as it makes sense."""
    if not isinstance(said, Mapping):
        return {}
    found: dict[str, Any] = {}
    if isinstance(said.get("model"), str):
        found["model"] = _text(said["model"])[:80]
    heat = said.get("temperature")
    if isinstance(heat, int | float) and not isinstance(heat, bool) and -60 < heat < 200:
        found["temperature"] = round(float(heat), 1)
    if said.get("throttled") is not None:
        found["throttled"] = [_text(str(word))[:60] for word in _listed(said["throttled"])[:8]]
    if said.get("uptime"):
        found["uptime"] = int(_number(said["uptime"]))
    storage = said.get("storage")
    if isinstance(storage, Mapping):
        found["storage"] = {
            "backend": _text(str(storage.get("backend", "")))[:20],
            "path": _text(str(storage.get("path", "")))[:120],
            "free": int(_number_of_bytes(storage.get("free"))),
            "size": int(_number_of_bytes(storage.get("size"))),
        }
    return found


def _number_of_bytes(value: Any) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fine and 0 <= value < 1e18 else 0.0


def causes(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the drifted states of a row that did not just follow from others."""
    return [found for found in entry.get("drift", ()) if not found["follows"]]


# --- the rack --------------------------------------------------------------------------------------


def exit_code(nodes: Mapping[str, Mapping[str, Any]], problems: Sequence[str] = ()) -> int:
    """Return 0 when all nodes are clean, 1 when some drifted, 2 when not all could be checked."""
    statuses = {entry["status"] for entry in nodes.values()}
    if problems or not nodes or statuses & set(UNCHECKED):
        return EXIT_UNCHECKED
    return EXIT_DRIFT if DRIFTED in statuses else EXIT_CLEAN


def counts(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return how many nodes there are of every status."""
    return {
        status: sum(entry["status"] == status for entry in nodes.values()) for status in STATUSES
    }


def drifted_states(nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many states differ in the rack, those left out of the answers included."""
    return sum(len(entry["drift"]) + entry["more"] for entry in nodes.values())


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a check in one short line of history."""
    nodes = document["nodes"]
    return {
        "kind": document["kind"],
        "began": document["began"],
        "seconds": document["seconds"],
        "exit": document["exit"],
        "tgt": document["tgt"],
        "counts": counts(nodes),
        "drift": {
            name: [found["id"][:120] for found in causes(entry)[:20]]
            for name, entry in nodes.items()
            if entry["status"] == DRIFTED
        },
        "unchecked": {
            name: f"{entry['status']}: {entry['reason'].splitlines()[0][:160] if entry['reason'] else ''}"
            for name, entry in nodes.items()
            if entry["status"] in UNCHECKED
        },
        "problems": [str(problem)[:300] for problem in document["problems"]],
    }


def verdict(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what a notice is about: who is not clean, and why. Two equal ones are no news.

    A node on which states run is in neither state; the next check tells.
    """
    return {
        name: [entry["status"], *sorted(found["id"] for found in causes(entry))]
        for name, entry in sorted(nodes.items())
        if entry["status"] not in (CLEAN, IN_PROGRESS)
    }


# --- words -----------------------------------------------------------------------------------------


def when(seconds: float) -> str:
    """Return a moment as people write it, in this machine's time."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(document: Mapping[str, Any]) -> str:
    """Return a check as a table for a terminal."""
    lines = [("NODE", "STATUS", "STATES", "SECONDS", "WHAT")]
    for name, entry in sorted(document["nodes"].items()):
        numbers = (
            str(entry["states"] or "-"),
            f"{entry['seconds']:.1f}" if entry["states"] else "-",
        )
        lines.append((name, entry["status"], *numbers, one_line(what(entry), 160)))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *(f"! {one_line(problem, 400)}" for problem in document["problems"]),
                      "", *_closing(document)])  # fmt: skip


def what(entry: Mapping[str, Any]) -> str:
    """Return in a few words what is amiss with a node."""
    if entry["status"] != DRIFTED:
        return str(entry["reason"])
    found = causes(entry) or entry["drift"]
    names = [f"{item['id']}{' (cannot be)' if item['failed'] else ''}" for item in found]
    follows = len(entry["drift"]) - len(found)
    more = [f"{entry['more']} more"] if entry["more"] else []
    after = [f"{follows} that follow"] if follows else []
    return ", ".join([*names, *more, *after])


def _closing(document: Mapping[str, Any]) -> list[str]:
    """Return the last lines: how many of each, and what to do next."""
    number = counts(document["nodes"])
    said = ", ".join(f"{count} {status}" for status, count in number.items() if count) or "no nodes"
    lines = [f"{said}; {document['seconds']:.0f} s"]
    drifted = [n for n, entry in sorted(document["nodes"].items()) if entry["status"] == DRIFTED]
    if drifted:
        lines.append(f"salt-run drift.diff {drifted[0]} shows what differs, "
                     f"salt-run drift.fix {drifted[0]} mends it")  # fmt: skip
    return lines


def one_line(words: str, most: int) -> str:
    """Return a text as one line of at most so many characters."""
    line = " ".join(words.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def diff(name: str, entry: Mapping[str, Any]) -> str:
    """Return what differs on a node, for a terminal."""
    lines = [f"{name}: {entry['status']}, checked {when(entry['checked'])}"]
    if entry["reason"]:
        lines += [f"  {line}" for line in entry["reason"].splitlines()]
    for found in entry["drift"]:
        lines += ["", f"* {title(found)}"]
        lines += [f"  {line}" for line in notes(found)]
        lines += [f"    {line}" for line in change_lines(found["changes"])]
    if entry["more"]:
        lines += ["", f"… and {entry['more']} more"]
    return "\n".join(lines)


def title(found: Mapping[str, Any]) -> str:
    """Return the id of a drifted state with its function and its name."""
    name = "" if found["name"] in ("", found["id"]) else f"  {one_line(found['name'], 120)}"
    return f"{one_line(found['id'], 120)}  [{one_line(found['function'], 60)}]{name}"


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return the lines that a state says of its drift itself."""
    lines = [line for line in found["comment"].splitlines() if line.strip()]
    if found["failed"]:
        lines = ["it cannot be as it should:", *lines]
    if found["follows"]:
        lines.append(f"follows from: {', '.join(found['follows'])}")
    return lines


def change_lines(changes: Any, path: str = "") -> list[str]:
    """Return a state's changes as lines, files as diffs (``-`` as it is, ``+`` as it should be).

    Args:
        changes: what a state returned, bounded.
        path: where in the changes this is.
    """
    if isinstance(changes, str):
        lines = changes.splitlines()
        if [line[:4] for line in lines[:2]] == ["--- ", "+++ "]:
            lines = lines[2:]  # names of files that are the state's
        return lines if len(lines) > 1 or not path else [f"{path}: {changes}"]
    if isinstance(changes, Mapping) and {"old", "new"} == set(changes):
        return _old_and_new(path, changes["old"], changes["new"])
    if isinstance(changes, Mapping) and changes:
        return [
            line
            for key, value in changes.items()
            for line in change_lines(value, "" if key == "diff" else f"{path}.{key}".lstrip("."))
        ]
    return [f"{path}: {_brief(changes)}"] if path else []


def _old_and_new(path: str, old: Any, new: Any) -> list[str]:
    if (
        isinstance(new, str)
        and isinstance(old, str | None)
        and "\n" in f"{old or ''}{new}".strip("\n")
    ):
        pair = ((old or "").splitlines(), new.splitlines())
        return [f"{path}:", *list(difflib.unified_diff(*pair, n=1, lineterm=""))[2:]]
    lines = [f"- {path}: {_brief(old)}"] if old not in (None, "") else []
    return [*lines, f"+ {path}: {_brief(new)}"]


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return value.strip("\n")
    return json.dumps(value, ensure_ascii=False)


def changed(
    returned: Any, before: Mapping[str, Any], mask: Mask = lambda value: value
) -> list[dict[str, Any]]:
    """Return the states of a highstate that changed something or failed, in the order they ran.

    Args:
        returned: what ``state.apply`` gave; its changes are not masked.
        before: the node's row before, whose changes are. Of other states it is said that they
            changed something, and not what.
        mask: takes secrets out of nested data.
    """
    if not isinstance(returned, Mapping):
        return []
    shown = {(found["id"], found["name"]): found["changes"] for found in before["drift"]}
    chunks = [(tag, chunk) for tag, chunk in returned.items() if isinstance(chunk, Mapping)]
    done = [item for item in chunks if item[1].get("changes") or item[1].get("result") is False]
    done.sort(key=lambda item: _number(item[1].get("__run_num__")))
    return [_done(str(tag), chunk, shown, mask) for tag, chunk in done[:MOST_STATES]]


def _done(
    tag: str, chunk: Mapping[str, Any], shown: Mapping[tuple[str, str], Any], mask: Mask
) -> dict[str, Any]:
    parts = tag.split("_|-")
    name = str(chunk.get("name") or "")
    told = {
        "id": chunk.get("__id__"),
        "sls": chunk.get("__sls__"),
        "function": f"{parts[0]}.{parts[-1]}",
        "name": name,
        "comment": chunk.get("comment"),
        "changes": shown.get((str(chunk.get("__id__")), name), {}),
        "failed": chunk.get("result") is False,
    }
    return _entry(told, mask)


def fixed(node: str, document: Mapping[str, Any]) -> str:
    """Return what a fix did, for a terminal."""
    applied = document.get("applied")
    if applied is None:  # it did not get so far
        return "\n".join(document["problems"])
    count = len(applied["changed"])
    states = "one state" if count == 1 else f"{count} states"
    lines = [f"{node}: {states} changed something"]
    if applied["problem"]:
        lines.append(f"! {applied['problem']}")
    for found in applied["changed"]:
        lines += ["", f"* {title(found)}", *(f"  {line}" for line in notes(found))]
        lines += [f"    {line}" for line in change_lines(found["changes"])]
    entry = document["nodes"][node]
    lines += ["", f"checked again: {entry['status']}{': ' if what(entry) else ''}{what(entry)}"]
    return "\n".join([*lines, *(f"! {problem}" for problem in document["problems"])])


def as_json(document: Mapping[str, Any]) -> str:
    """Return a check as JSON for a person who redirects it to a file."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def dumps(value: Any) -> str:
    """Return data as JSON on one line."""
    return json.dumps(value)


def history(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return past checks as a table for a terminal, the newest last."""
    rows = [("BEGAN", "SECONDS", "EXIT", "WHAT")]
    for entry in entries:
        seconds = entry.get("seconds")
        rows.append((
            when(entry["began"]),
            "-" if seconds is None else f"{seconds:.0f}",
            "-" if entry.get("exit") is None else str(entry["exit"]),
            one_line(told(entry), 200),
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in rows
    )


def told(entry: Mapping[str, Any]) -> str:
    """Return in a few words what a line of the history says."""
    if entry["kind"] not in ("check", "fix"):
        return f"{entry['kind'].upper()}: {entry.get('reason', '')}"
    number = {status: count for status, count in (entry.get("counts") or {}).items() if count}
    said = ", ".join(f"{count} {status}" for status, count in number.items()) or "no nodes"
    details = [
        *(f"{name}: {', '.join(ids)}" for name, ids in (entry.get("drift") or {}).items()),
        *(f"{name}: {why}" for name, why in (entry.get("unchecked") or {}).items()),
        *(entry.get("problems") or ()),
    ]
    about = f"fix of {entry.get('tgt')}: " if entry["kind"] == "fix" else ""
    about = f"only {entry['tgt']}: " if entry["kind"] == "check" and entry.get("tgt") else about
    return f"{about}{said}" + (f" ({'; '.join(details)})" if details else "")


# --- for other programs ----------------------------------------------------------------------------


def junit(document: Mapping[str, Any]) -> str:
    """Return a check as JUnit XML: a suite for each node, a failed case for each drifted state."""
    suites = ET.Element("testsuites", name="drift", time=f"{document['seconds']:.1f}")
    for name, entry in sorted(document["nodes"].items()):
        suite = ET.SubElement(suites, "testsuite", name=_xml(name), time=f"{entry['seconds']:.1f}")
        for found in entry["drift"]:
            case = ET.SubElement(suite, "testcase", classname=_xml(f"{name}.{found['sls']}"),
                                 name=_xml(found["id"]))  # fmt: skip
            failure = ET.SubElement(case, "failure", message=_xml(one_line(found["comment"], 200)),
                                    type=_xml(found["function"]))  # fmt: skip
            failure.text = _xml("\n".join(change_lines(found["changes"])))
        if not entry["drift"]:
            case = ET.SubElement(suite, "testcase", classname=_xml(name), name="highstate")
            if entry["status"] in UNCHECKED:
                error = ET.SubElement(case, "error", type=_xml(entry["status"]),
                                      message=_xml(one_line(entry["reason"], 400)))  # fmt: skip
                error.text = _xml(entry["reason"])
        for kind in ("failure", "error"):
            suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))
        suite.set("tests", str(len(suite.findall("testcase"))))
    for problem in document["problems"]:
        suite = ET.SubElement(suites, "testsuite", name="rack", tests="1", errors="1", failures="0")
        case = ET.SubElement(suite, "testcase", classname="rack", name="check")
        ET.SubElement(case, "error", message=_xml(one_line(problem, 400)), type="not checked")
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode")


def _xml(words: str) -> str:
    """Return a text without what XML 1.0 cannot hold."""
    return "".join(
        char if char in "\t\n" or ("\x20" <= char < "\ufffe" and not "\ud800" <= char < "\ue000")
        or char > "\uffff" else "\N{REPLACEMENT CHARACTER}"
        for char in words
    )  # fmt: skip


def metrics(
    nodes: Mapping[str, Mapping[str, Any]],
    marks: Mapping[str, float | None],
) -> str:
    """Return what Prometheus' node exporter reads from a text file.

    Args:
        nodes: the last row of each node.
        marks: further gauges by name without prefix; those that are None are left out.
    """
    lines: list[str] = []

    def gauge(name: str, about: str, samples: Mapping[str, float]) -> None:
        lines.extend(
            [f"# HELP saltberry_drift_{name} {about}", f"# TYPE saltberry_drift_{name} gauge"]
        )
        lines.extend(
            f"saltberry_drift_{name}{labels} {value:.15g}" for labels, value in samples.items()
        )

    gauge("nodes", "Nodes by what the last check found.",
          {f'{{status="{status}"}}': count for status, count in counts(nodes).items()})  # fmt: skip
    gauge("states", "States that differ, in the whole rack.", {"": drifted_states(nodes)})
    gauge("node_states", "States that differ, by node.",
          {f'{{node="{_label(name)}"}}': len(entry["drift"]) + entry["more"]
           for name, entry in sorted(nodes.items())})  # fmt: skip
    for name, value in marks.items():
        if value is not None:
            gauge(name, MARKS[name], {"": value})
    return "\n".join(lines) + "\n"


MARKS = {
    "check_duration_seconds": "How long the last check of the whole rack took.",
    "exit_code": "Of the last check of the whole rack: 0 clean, 1 drift, 2 not all was checked.",
    "last_check_timestamp_seconds": "When the last check of the whole rack ended.",
    "last_success_timestamp_seconds": "When the last check ended that reached every node.",
    "started_timestamp_seconds": "When a check began that has not ended; 0 when none runs.",
    "interval_seconds": "How often the rack is to be checked; 0 when it is not.",
    "unfinished": "Checks of the history that were cut off, skipped or missed.",
}


def _label(words: str) -> str:
    """Return a label's value as the text format wants it."""
    return words.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
