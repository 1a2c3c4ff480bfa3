"""kubeadm and kubectl: started without a shell, without a word of theirs in Salt's log.

What they print may have a bootstrap token in it, so it is taken from here only through
:func:`last_lines`. kubectl has patience with an API server that is away for a moment.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "kube_programs"

log = logging.getLogger(__name__)

# Seconds
_LIMIT = 30
_POLL = 0.5
API_WAIT = 15.0
_ATTEMPTS = 4

_TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
_NOISE = re.compile(
    r"^([IWE]\d{4} |To see the stack trace|W: |\[WARNING |\[preflight\] If you know)"
)
# What kubectl says when the API server is away, starting, or overloaded: worth another try.
_TRANSIENT = re.compile(
    r"connection refused|was refused|unable to connect to the server|no route to host"
    r"|network is unreachable|i/o timeout|tls handshake timeout|context deadline exceeded"
    r"|timed out|request timeout|client\.timeout|connection reset|unexpected eof|: eof"
    r"|serviceunavailable|internalerror|toomanyrequests|\(timeout\)|leader changed"
    r"|currently unable to handle the request|http2: ",
    re.IGNORECASE,
)
_SERVER = re.compile(r"^\s*(?:- )?server: *(\S+)", re.MULTILINE)


def scrub(text: str) -> str:
    """Return the text without anything that looks like a bootstrap token."""
    return _TOKEN.sub("<token>", text)


def last_lines(text: str, count: int = 6) -> str:
    """Return the last lines of a program's output that say something, without secrets.

    text
        What it printed.
    count
        How many lines at most.
    """
    lines = [line.strip() for line in text.splitlines()]
    useful = [line for line in lines if line and not _NOISE.match(line)]
    return scrub("; ".join(useful[-count:]))


def run(
    argv: list[str],
    limit: float = _LIMIT,
    stdin: str | None = None,
    kubeconfig: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program.

    argv
        Program and arguments; no secret may be among them, the process list shows them to all.
    limit
        Seconds after which the program is killed.
    stdin
        What it reads; a secret may be here.
    kubeconfig
        Credentials for the API server, as KUBECONFIG.

    Returns the finished process, whatever its exit code. Raises CommandExecutionError if the
    program is missing or does not end.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    if kubeconfig:
        environment["KUBECONFIG"] = str(kubeconfig)
    program = shutil.which(argv[0])
    if not program:
        raise CommandExecutionError(
            f"{argv[0]} is not installed on this node: apply the state 'kubernetes' first"
        )
    try:
        return subprocess.run(
            [program, *argv[1:]],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        # no cause is chained: it carries the input and the output
        raise CommandExecutionError(
            f"{' '.join(argv[:2])} did not end within {limit:.0f} s and was stopped"
        ) from None


def api_answers(kubeconfig: Path, wait: float) -> bool:
    """Return whether the API server reports ready within ``wait`` seconds.

    kubeconfig
        Credentials for it.
    wait
        Seconds.
    """
    end = time.monotonic() + wait
    while True:
        probe = ["kubectl", "get", "--raw=/readyz", "--request-timeout=5s"]
        if run(probe, kubeconfig=kubeconfig).returncode == 0:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL)


def kubectl(
    *arguments: str,
    kubeconfig: Path,
    stdin: str | None = None,
    attempts: int = _ATTEMPTS,
    limit: float = _LIMIT,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl; when the API server is briefly away, wait until it is ready and try again.

    limit
        Seconds after which it is stopped: more than usual for many objects at once.

    Returns the finished process, also a failed one. Raises CommandExecutionError if the API server
    did not answer in any attempt.
    """
    argv = ["kubectl", *arguments, "--request-timeout=10s"]
    for attempt in range(1, attempts + 1):
        done = run(argv, limit, stdin, kubeconfig)
        if done.returncode == 0 or not _TRANSIENT.search(done.stderr):
            return done
        if attempt < attempts:
            log.debug("API server: %s; trying again", last_lines(done.stderr, 1))
            api_answers(kubeconfig, API_WAIT)
    raise CommandExecutionError(
        f"the API server{_server(kubeconfig)} does not answer: {last_lines(done.stderr, 1)}. "
        "Is the control plane up? On it: crictl ps, journalctl -u kubelet"
    )


def _server(kubeconfig: Path) -> str:
    try:
        found = _SERVER.search(kubeconfig.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return f" at {found[1]}" if found else ""


def kubectl_json(
    *arguments: str, kubeconfig: Path, stdin: str | None = None, attempts: int = _ATTEMPTS
) -> dict[str, Any] | None:
    """Return what kubectl prints as JSON; None if the API server knows no such object.

    Raises CommandExecutionError with kubectl's own words for any other failure.
    """
    argv = (*arguments, "-o", "json")
    done = kubectl(*argv, kubeconfig=kubeconfig, stdin=stdin, attempts=attempts)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    if "(NotFound)" in done.stderr:
        return None
    raise CommandExecutionError(
        f"kubectl {' '.join(arguments)} failed: {last_lines(done.stderr, 2)}"
    )
