"""Say in one plain line why a function or a state run of a node failed.

Pure Python, no Salt. The one sentence that a person wants is buried some levels down in what Salt returns,
in another place for every way of failing. It comes from a node, so it is also cleaned: one line, no
control characters (it ends up on terminals), no bootstrap token, no traceback, at most
:data:`LONGEST` characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 480
NO_ANSWER = "the node stopped answering"

_TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_TRACEBACK = "Traceback (most recent call last)"
_RAISED = re.compile(
    r"(?P<salt>salt\.exceptions\.)?(?:\w+\.)*(?P<name>\w*(?:Error|Exception|Exit)): "
)
# What Salt says of a state that did not run because another one failed: never the cause.
_FOLLOWED = ("One or more requisite failed", "State was not run because")


def plain(text: Any, limit: int = LONGEST) -> str:
    """Return any text as one clean line.

    Args:
        text: what a state, a function or an exception said.
        limit: most characters to return.

    Returns:
        The text without secrets and control characters, blanks collapsed, cut with "…".
    """
    line = _KEY_BLOCK.sub("<key>", str(text))
    if _TRACEBACK in line:
        line = _last_words(line)
    line = _TOKEN.sub("<token>", line)
    line = " ".join("".join(char if char.isprintable() else " " for char in line).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _last_words(trace: str) -> str:
    """Return what a traceback ends with: the exception, for Salt's own ones without its name."""
    lines = [line for line in trace.splitlines() if line.strip()]
    raised = [number for number, line in enumerate(lines) if _RAISED.match(line)]
    words = " ".join(lines[raised[-1] :] if raised else lines[-1:])
    return _RAISED.sub(lambda found: "" if found["salt"] else f"{found['name']}: ", words, count=1)


def _in_order(chunks: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the states of a run in the order they ran."""
    states = [chunk for chunk in chunks.values() if isinstance(chunk, Mapping)]
    return sorted(states, key=lambda chunk: chunk.get("__run_num__", 0))


def states(returned: Any) -> str:
    """Return why a state run failed: the first state that failed by itself, as "id: comment".

    Args:
        returned: what ``state.apply`` gave: a dictionary of states, or a list of errors.

    Returns:
        One line; "" when no state failed.
    """
    if not isinstance(returned, Mapping):
        return _joined(returned)
    broken = [chunk for chunk in _in_order(returned) if chunk.get("result") is False]
    causes = [c for c in broken if not str(c.get("comment", "")).startswith(_FOLLOWED)]
    for chunk in causes or broken:
        name = chunk.get("__id__", chunk.get("name", "?"))
        return plain(f"{name}: {plain(chunk.get('comment', ''))}")
    return ""


def answer(returned: Any) -> str:
    """Return the reason in what a function gave: its problems, its reason, or its error text."""
    if isinstance(returned, Mapping):
        problems = returned.get("problems") or returned.get("errors")
        if problems:
            return _joined(problems)
        for key in ("reason", "Error", "comment", "error"):
            if returned.get(key):
                return plain(returned[key])
        return "failed without saying why"
    return _joined(returned)


def _joined(parts: Any) -> str:
    """Return a list of sentences, or one text, as one line."""
    if isinstance(parts, list | tuple):
        return plain("; ".join(plain(part) for part in parts))
    return plain(parts)
