"""Log limits in docker's ``daemon.json``, with everything else as it was."""

from __future__ import annotations

import json
import re
from typing import Any

__virtualname__ = "daemon_json"

# The log drivers that write files which need a limit, and take these options.
_FILE_DRIVERS = ("json-file", "local")


def with_log_limits(text: str, max_size: str, max_file: int) -> str:
    """Return a ``daemon.json`` whose containers' logs are rotated.

    text
        The file, empty when there is none. When it says already what is wanted it is returned
        unchanged; else keys keep their order and the file its indentation.
    max_size
        Size at which a log is rotated, for instance ``10m``.
    max_file
        How many are kept.

    Another log driver than ``json-file`` or ``local`` is somebody's choice: it takes no such
    options, and docker would not start with them. Raises ValueError for a file that is no JSON
    object.
    """
    try:
        settings: Any = json.loads(text) if text.strip() else {}
    except ValueError as exc:
        raise ValueError(f"is no JSON ({exc}); docker does not start with it either") from exc
    if not isinstance(settings, dict):
        raise ValueError("is no JSON object; write {} for no settings")
    if settings.get("log-driver", "json-file") not in _FILE_DRIVERS:
        return text
    options = settings.get("log-opts", {})
    if not isinstance(options, dict):
        raise ValueError("has log-opts that are no JSON object")
    # docker wants all options as text.
    limits = {"max-size": max_size, "max-file": str(max_file)}
    wanted = {"log-driver": "json-file", **settings, "log-opts": {**options, **limits}}
    if wanted == settings:
        return text
    indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return json.dumps(wanted, indent=indent.group(1) if indent else 2, ensure_ascii=False) + "\n"
