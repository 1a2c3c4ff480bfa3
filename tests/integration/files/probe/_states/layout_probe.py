"""Planted by tests/integration/conftest.py: does a state module reach the minions?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def marked(name: str) -> dict[str, Any]:
    """Write a file to show that a state ran."""
    ret: dict[str, Any] = {"name": name, "result": None, "changes": {}, "comment": ""}
    if not __opts__["test"]:
        Path(name).write_text(__salt__["layout_probe.shout"]("ran"), encoding="utf-8")
        ret.update(result=True, changes={name: "written"})
    return ret
