"""Print what a runner has put into words, and nothing else.

``salt-run`` takes its exit code from the key ``retcode`` of what a runner returned, and would print
that key, too. A runner of ours that has both words and an exit code returns
``{"data": {"text": …, "retcode": …}, "outputter": "saltberry_text"}``.
"""

from __future__ import annotations

from typing import Any


def output(data: Any, **kwargs: Any) -> str:
    """Return the text of a runner's return; anything else as Python writes it."""
    return str(data["text"]) if isinstance(data, dict) and "text" in data else str(data)
