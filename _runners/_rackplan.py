"""Compare the rack that is wanted with the rack that is, and put the result into words.

Pure Python, no Salt: the master's reconcile and status runners gather the facts (accepted keys,
roles from the pillar, nodes from the API server, the record of attempts) and this file decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# In the order of how far a node has come; each says what reconcile does about the node.
READY = "ready"  # nothing
JOIN = "join"  # not in the cluster: bring it in
MEND = "mend"  # in the cluster, but not Ready: do its states again
LATER = "later"  # failed a moment ago: leave it alone for a while
WAIT = "wait"  # a worker, and there is no control plane to join
OUTSIDE = "outside"  # its roles need no Kubernetes

ID_RULE = "its id is not a plain host name (lower case, digits, hyphens), so it is never touched"


class Step(NamedTuple):
    """What is to be done about one node, and why."""

    action: str
    reason: str = ""


def member_role(roles: Sequence[str]) -> str | None:
    """Return what a node is in Kubernetes: "control_plane", "worker" or None (no part of it)."""
    for role in ("control_plane", "worker"):
        if role in roles:
            return role
    return None


def plan(
    roles: Mapping[str, Sequence[str]],
    nodes: Mapping[str, Mapping[str, Any]] | None,
    control_plane: str,
    waiting: Iterable[str] = (),
) -> dict[str, Step]:
    """Return the difference between the rack wanted and the rack as it is.

    Args:
        roles: roles of every accepted minion with a valid id.
        nodes: what the API server knows, ``{name: {"ready": bool, "reason": str, ...}}``; None when
            it did not answer, or there is no cluster yet.
        control_plane: id of the control plane that the others join.
        waiting: ids whose pause after a failure has not ended.

    Returns:
        A step for every id in ``roles``. The control plane comes first.
    """
    steps: dict[str, Step] = {}
    blocked = _why_blocked(roles, nodes, control_plane)
    paused = set(waiting)
    for node in sorted(roles, key=lambda name: (name != control_plane, name)):
        role = member_role(roles[node])
        known = (nodes or {}).get(node)
        if role is None:
            steps[node] = Step(OUTSIDE)
        elif known is not None and known.get("ready"):
            steps[node] = Step(READY)
        elif node != control_plane and blocked:
            steps[node] = Step(WAIT, blocked)
        elif node in paused:
            steps[node] = Step(LATER)
        elif known is not None:
            steps[node] = Step(MEND, f"not Ready: {known.get('reason') or 'no reason given'}")
        else:
            steps[node] = Step(JOIN)
    return steps


def _why_blocked(
    roles: Mapping[str, Sequence[str]],
    nodes: Mapping[str, Mapping[str, Any]] | None,
    control_plane: str,
) -> str:
    """Return why no worker can join now, or ""."""
    if control_plane not in roles:
        return f"waiting for the control plane: the key of {control_plane} is not accepted"
    if nodes is None:
        return f"waiting for the control plane: the API server on {control_plane} does not answer"
    if control_plane not in nodes:
        return f"waiting for the control plane: {control_plane} is not in the cluster yet"
    return ""


def rows(
    *,
    keys: Mapping[str, str],
    roles: Mapping[str, Sequence[str]],
    refused: Iterable[str],
    nodes: Mapping[str, Mapping[str, Any]] | None,
    book: Mapping[str, Mapping[str, Any]],
    last_known: Mapping[str, Mapping[str, Any]],
    control_plane: str,
    working: bool,
    now: float,
    moves: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return one row for every node that the pillar, the keys or the cluster knows.

    Args:
        keys: state of each key that the master holds.
        roles: roles of every valid id, named in the pillar or known by its key.
        refused: ids that are no host names.
        nodes: what the API server says now; None when it does not answer.
        book: the record of attempts.
        last_known: nodes of the last good look at the cluster (``cluster.json``).
        control_plane: id of the control plane.
        working: whether a reconcile runs at this moment.
        now: seconds since the epoch.
        moves: how far the nodes are whose container data is being moved.
    """
    bad = set(refused)
    out = []
    for node in sorted(set(keys) | set(roles) | set(nodes or {})):
        key = keys.get(node, "none")
        row = _blank_row(node, ",".join(roles.get(node, ())) or None, key)
        out.append(row)
        if node in bad:
            row["reason"] = ID_RULE
            continue
        record = book.get(node, {})
        fact = (nodes or {}).get(node)
        row.update(
            _membership(node, roles.get(node, ()), fact, nodes is not None, node in last_known)
        )
        row["version"] = (fact or {}).get("version")
        row["ip"] = (fact or last_known.get(node) or {}).get("ip")
        row["attempts"] = int(record.get("attempts", 0))
        row["last"] = record.get("last")
        row["next"] = record.get("next") or None
        row["stage"] = record.get("stage") or None
        row["seconds"] = record.get("seconds", {})
        row["move"] = (moves or {}).get(node)
        if row["move"] is not None:
            row["reason"] = _moving(row["move"])
            continue
        if row["ready"]:
            row["reason"] = _not_moved(record, now) or _closed(fact or {})
            continue
        row["reason"] = _key_reason(node, key, fact is not None)
        if not row["reason"] and member_role(roles.get(node, ())):
            row["reason"] = _reason(record, fact, nodes is not None, control_plane, working, now)
    return out


def _blank_row(node: str, role: str | None, key: str) -> dict[str, Any]:
    """Return a row with all its columns."""
    return {
        "id": node,
        "role": role,
        "key": key,
        "joined": False,
        "ready": False,
        "version": None,
        "ip": None,
        "reason": "",
        "attempts": 0,
        "last": None,
        "next": None,
        "stage": None,
        "seconds": {},
        "move": None,
    }


def _moving(move: Mapping[str, Any]) -> str:
    """Say how far a node's container data is on its way."""
    if not move.get("phase"):
        return "moves its container data"
    text = f"moves its container data: {move['phase']}"
    if move.get("bytes_total"):
        text += f", {size(move.get('bytes_done') or 0)} of {size(move['bytes_total'])}"
    return f"{text} ({size(move['rate'])}/s)" if move.get("rate") else text


def _not_moved(record: Mapping[str, Any], now: float) -> str:
    """Say why a Ready node was not moved or rebooted as it wants, "" if nothing is amiss."""
    undone = {"move": "container data not moved", "reboot": "not rebooted"}.get(
        record.get("work", "")
    )
    return f"{undone}: {_failure(record, now)}" if undone and record.get("reason") else ""


def _closed(fact: Mapping[str, Any]) -> str:
    """Say that a Ready node takes no pods, "" if it does."""
    if fact.get("schedulable", True):
        return ""
    why = fact.get("drained_for")
    return f"takes no pods: {why}" if why else "takes no pods: it was cordoned (kubectl uncordon)"


def size(count: float) -> str:
    """Return a number of bytes as a person says it: "812 B", "4.7 MB", "80.1 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _membership(
    node: str,
    roles: Sequence[str],
    fact: Mapping[str, Any] | None,
    answered: bool,
    was_member: bool,
) -> dict[str, bool | None]:
    """Return ``joined`` and ``ready``; None for what does not apply, or is not known."""
    if fact is not None:
        return {"joined": True, "ready": bool(fact.get("ready"))}
    if member_role(roles) is None and not was_member:
        return {"joined": None, "ready": None}
    if answered:
        return {"joined": False, "ready": False}
    return {"joined": True if was_member else None, "ready": None}


def _key_reason(node: str, key: str, joined: bool) -> str:
    """Say what is amiss with a node's key, and what to do; "" for an accepted one."""
    if key == "none" and joined:
        return "in the cluster, but the master holds no key of it, so nobody looks after it"
    return {
        "accepted": "",
        "pending": f"its key waits for you: salt-key -f {node}, compare, then salt-key -a {node}",
        "denied": "it came with another key than before: a re-imaged Pi needs a new card (enrol.card)",
        "rejected": f"its key was rejected; salt-key -d {node} lets it ask again",
        "none": "never seen: switch it on, or write its card with salt-run enrol.card",
    }.get(key, f"its key is {key}")


def _reason(  # noqa: PLR0917
    record: Mapping[str, Any],
    fact: Mapping[str, Any] | None,
    answered: bool,
    control_plane: str,
    working: bool,
    now: float,
) -> str:
    """Say in one line why a node with an accepted key is not Ready."""
    if record.get("running") and working:
        return f"being set up for {ago(now - float(record.get('last', now)))}"
    if record.get("reason"):
        return _failure(record, now)
    if not answered:
        return f"the API server on {control_plane or 'the control plane'} does not answer"
    if fact is not None:
        return f"not Ready: {fact.get('reason') or 'no reason given'}"
    return "waiting for its turn" if working else "not in the cluster yet"


def _failure(record: Mapping[str, Any], now: float) -> str:
    """Say where an attempt failed, why, and when the next one is."""
    stage = f"{record['stage']}: " if record.get("stage") else ""
    return f"{stage}{record['reason']}{_again(record, now)}"


def _again(record: Mapping[str, Any], now: float) -> str:
    """Say how often a node failed, and when it is tried again."""
    failures = int(record.get("attempts", 0))
    if not failures:
        return ""
    pause = float(record.get("next", 0)) - now
    when = f"again in {ago(pause)}" if pause > 0 else "again at the next look"
    return f" (failed {failures} times; {when})" if failures > 1 else f" ({when})"


def ago(seconds: float) -> str:
    """Return a duration as a person says it: "42 s", "7 min", "3 h"."""
    seconds = max(0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def table(document: Mapping[str, Any]) -> str:
    """Return the status document as a table for a terminal."""
    heads = ("NODE", "ROLE", "KEY", "JOINED", "READY", "VERSION", "WHY NOT")
    lines = [heads]
    for row in document.get("nodes", ()):
        lines.append(
            (
                _shown(row["id"]),
                row["role"] or "-",
                row["key"],
                _yes(row["joined"]),
                _yes(row["ready"]),
                row["version"] or "-",
                row["reason"],
            )
        )
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(heads))]
    text = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *(f"! {problem}" for problem in document.get("problems", ()))])


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[value]


def _shown(node: str) -> str:
    """Return an id as it may go to a terminal: one that is no host name is quoted and cut."""
    return node if node.isascii() and node.isprintable() and len(node) <= 63 else repr(node)[:64]
