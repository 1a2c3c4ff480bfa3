"""Planted by tests/integration/conftest.py: does a utility module reach the minions?"""

from __future__ import annotations


def shout(word: str) -> str:
    """Return a word in upper case."""
    return word.upper()
