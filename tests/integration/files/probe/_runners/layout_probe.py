"""Planted by tests/integration/conftest.py: does the master find our runners, and they the utilities?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__utils__: dict[str, Callable[..., Any]]


def shout(word: str) -> str:
    """Return a word in upper case, by way of the utility module."""
    text: str = __utils__["layout_probe.shout"](word)
    return text


def good_id(minion_id: str) -> bool:
    """Ask the rack's own utility module."""
    good: bool = __utils__["rackspec.valid_id"](minion_id)
    return good
