"""The rack as a web page on the master: who is there, how they are, what has drifted.

:func:`write` makes the file, from what the drift checks kept and one look at the cluster; a timer runs
it, and nginx serves it (``salt/page``, off by default). See ``docs/drift.md``.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]


def _beside(name: str) -> ModuleType:
    """Load a module of this folder, see ``rack._beside``."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"saltberry{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_findings = _beside("_findings")
_logbook = _beside("_logbook")
_pagehtml = _beside("_pagehtml")

FOLDER = "/srv/saltberry/page"


def write(folder: str = FOLDER, quiet: bool = False) -> dict[str, Any]:
    """Write the page, ``index.html``, to a folder.

    folder
        Made when it is missing; readable for the web server.
    quiet
        True: print nothing when all went well (for timers).

    Returns ``{"ok": True, "file": path}``, or ``{"ok": False, "reason": …, "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run page.write
        salt-run page.write folder=/tmp/page
    """
    path = Path(folder) / "index.html"
    if not path.is_absolute():
        reason = f"folder: {folder!a} is a relative path; write it from the root, like {FOLDER}"
        return {"ok": False, "reason": reason, "retcode": 1}
    text = _pagehtml.page(_facts())
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        _logbook.replace(path, text, 0o644)
    except OSError as exc:
        return {
            "ok": False,
            "reason": f"{exc.filename or path}: {exc.strerror or exc}",
            "retcode": 1,
        }
    if quiet:
        return {"data": {"text": "", "retcode": 0}, "outputter": "saltberry_text"}
    return {"ok": True, "file": str(path)}


def _facts() -> dict[str, Any]:
    """Return all that is on the page."""
    checks = __salt__["drift.known"]()
    status = __salt__["rack.status"]()
    latest = checks["latest"]
    for entry in latest["nodes"].values():
        for found in entry["drift"]:
            found["lines"] = _findings.change_lines(found["changes"])
    return {
        "rack": checks["rack"],
        "now": time.time(),
        "every": checks["every"],
        "nodes": status["nodes"],
        "problems": status["problems"],
        "pending": __salt__["enrol.pending"](),
        "latest": latest,
        "history": [{**entry, "told": _findings.told(entry)} for entry in checks["history"]],
    }
