"""Planted by tests/integration/conftest.py: does an execution module reach the minions?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]


def shout(word: str) -> str:
    """Return a word in upper case, by way of the utility module."""
    text: str = __utils__["layout_probe.shout"](word)
    return text


def roles() -> list[str]:
    """Return this minion's roles, as the rack's own utility module reads them from the pillar."""
    roles: list[str] = __utils__["rackspec.load"](__pillar__).roles(__opts__["id"])
    return roles


def pillar() -> dict[str, Any]:
    """Return the pillar as a module sees it, unmasked."""
    return dict(__pillar__)


def each(function: str, values: list[str]) -> dict[str, Any]:
    """Call a function once for each value; return what came back, by value."""
    return {value: __salt__[function](value) for value in values}
