"""Helm, in a process of its own: one request in, one answer out.

Helm 4 comes as a library (helm-python-sdk: Helm's own Go code behind ctypes), 85 MB of it. In the
minion it would stay for good, so it is loaded by this very file run as a program: the request goes in
by standard input, where nobody else sees the values in it, the answer comes out as JSON.

The program calls itself ``helm``: that is the name under which the API server notes which fields it
has set, and so ``helm upgrade`` typed by a person on the same cluster is no conflict.

Without an import of Salt: as a program it runs on the system's Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__virtualname__ = "helm_engine"

PACKAGE = "helm_python"
# In the engine's folder: a link to Python. What it is called is who Helm says it is.
PROGRAM = "helm"
_HOME = "/var/cache/saltberry/helm"
# Beyond what the request itself may take
_SPARE_SECONDS = 60


def ask(folder: str | Path, request: dict[str, Any], home: str = _HOME) -> Any:
    """Have Helm do one thing.

    folder
        Where the engine is.
    request
        ``op`` and what it needs, see the functions below; ``timeout`` in seconds.
    home
        Where Helm keeps downloaded charts.

    Returns what the operation gives. Raises CommandExecutionError with Helm's own words, which may have
    values in them.
    """
    # Not above: the program below runs without Salt
    from salt.exceptions import CommandExecutionError

    places = {f"HELM_{what}_HOME": f"{home}/{what.lower()}" for what in ("CACHE", "CONFIG", "DATA")}
    limit = float(request.get("timeout") or 60) + _SPARE_SECONDS
    try:
        done = subprocess.run(
            [str(Path(folder) / PROGRAM), "-I", "-B", __file__, str(folder)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
            env={**os.environ, "HOME": os.environ.get("HOME", "/root"), **places},
        )
    except subprocess.TimeoutExpired:
        # no cause is chained: it carries the request
        raise CommandExecutionError(
            f"Helm did not end within {limit:.0f} s and was stopped"
        ) from None
    except OSError as exc:
        raise CommandExecutionError(
            f"Helm cannot be started from {folder}: {exc.strerror}"
        ) from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["no word of it"]
        raise CommandExecutionError(f"Helm ended with code {done.returncode}: {last[0]}") from None
    if "error" in answer:
        raise CommandExecutionError(answer["error"])
    return answer["result"]


# --- in the process of its own -----------------------------------------------------------------------


def _version(helm: Any, request: dict[str, Any]) -> str:
    return str(helm.helm_sdk_version())


def _config(helm: Any, request: dict[str, Any]) -> Any:
    return helm.Config(kubeconfig_path=request["kubeconfig"], namespace=request["namespace"])


def _release(helm: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Install or upgrade (``exists``); with ``dry_run`` only say what it would be."""
    where = request["chart"]
    options = {
        "namespace": request["namespace"],
        "timeout": int(request["timeout"]),
        "labels": request["labels"],
        "chart_repo_url": where.get("repo"),
        "chart_version": where.get("version"),
        "plain_http": bool(where.get("plain_http")),
        "dry_run": "server" if request.get("dry_run") else None,
        "wait": "watcher" if request.get("wait") else None,
    }
    with _config(helm, request) as config, _registry(helm, where) as registry:
        if registry is not None:
            config.set_registry_client(registry)
        if request["exists"]:
            done = config.upgrade(
                where["chart"], request["name"], request["values"],
                reset_values=True, max_history=5, **options,
            )  # fmt: skip
        else:
            done = config.install(
                where["chart"], request["name"], request["values"], create_namespace=True, **options
            )
    return {key: done.get(key) for key in ("manifest", "revision", "chart_name", "chart_version")}


def _registry(helm: Any, where: dict[str, Any]) -> Any:
    """A client of registries without TLS, for those charts that say so."""
    import contextlib

    if where.get("plain_http") and where["chart"].startswith("oci://"):
        return helm.RegistryClient(plain_http=True)
    return contextlib.nullcontext()


def _uninstall(helm: Any, request: dict[str, Any]) -> None:
    with _config(helm, request) as config:
        config.uninstall(request["name"], timeout=int(request["timeout"]), ignore_not_found=True)


def _rollback(helm: Any, request: dict[str, Any]) -> None:
    with _config(helm, request) as config:
        config.rollback(
            request["name"], version=request["revision"], timeout=int(request["timeout"])
        )


_OPERATIONS = {
    "version": _version,
    "release": _release,
    "uninstall": _uninstall,
    "rollback": _rollback,
}


def _main() -> None:
    # What Go or Python may print must not get into the answer.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    sys.path.insert(0, sys.argv[1])
    try:
        import helm_python

        answer = {"result": _OPERATIONS[request["op"]](helm_python, request)}
    except Exception as exc:
        answer = {"error": str(exc) or type(exc).__name__}
    with os.fdopen(answer_to, "w") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    _main()
