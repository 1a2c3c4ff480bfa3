"""Is every node still what the pillar describes? And if not: what exactly, and mend it.

* :func:`check` has every node compare itself with its states, a few at a time, and says what differs.
  A timer runs it (``salt/drift``); what it found goes to the history, to Prometheus and to the page.
* :func:`diff` shows the differences of one node, :func:`fix` mends them, :func:`history` is the past.

The nodes mask secrets before they answer (``drift.look``), and answers are read from the job cache as
``rack`` does. What differs from what is decided on the node; who is asked, and what becomes of the
answers, here.

Master configuration (optional)::

    saltberry:
      state_dir: /var/lib/saltberry     # drift.lock, drift.running.json, drift.told.json, drift-webhook
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import logging
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]


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
_locks = _beside("_locks")
_logbook = _beside("_logbook")
_minions = _beside("_minions")
_outcome = _beside("_outcome")

STATE_DIR = "/var/lib/saltberry"
DEFAULTS: dict[str, Any] = {
    "enabled": True,
    "every_minutes": 60,
    "parallel": 3,
    "node_timeout": 300,
    "path": None,
    "keep": 400,
    "prometheus": "/var/lib/prometheus/node-exporter",
    "mail": None,
}
# Seconds after which a node that has not answered is asked whether it is still at it
POLL = 20
# A highstate that mends may fetch packages
FIX_LIMIT = 3600
# Pauses while a minion, or the master itself, comes back after a highstate that changed its settings
RESTARTING = (5, 10, 0)
FORMATS = ("table", "json", "junit")
METRICS = "saltberry-drift.prom"
# One line, the URL. Not in the pillar, which every node can read: who has it can write to the chat
WEBHOOK = "drift-webhook"
SENDMAIL = "/usr/sbin/sendmail"
NOTICE_LIMIT = 20
NOT_A_HOST_NAME = (
    "its id is not a plain host name (lower case, digits, hyphens), so it is never asked"
)


class _Refused(Exception):
    """Nothing was done; the text says why and what to do."""


def _printed(document: Mapping[str, Any], text: str, function: str) -> Any:
    """Return a document for programs, or its text for a person at a terminal."""
    for_a_person = __opts__.get("fun") == f"drift.{function}" and not __opts__.get("output")
    if for_a_person:
        said = {"text": text, "retcode": document["retcode"]}
        return {"data": said, "outputter": "saltberry_text"}
    return dict(document)


# --- the rack, and what is set -----------------------------------------------------------------------


def _state_dir() -> Path:
    folder = Path((__opts__.get("saltberry") or {}).get("state_dir", STATE_DIR))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _pillar() -> tuple[dict[str, Any], list[str]]:
    """Return the rack's pillar and what is wrong with it."""
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    problems = list(__utils__["rackspec.check"](pillar))
    errors = [_outcome.plain(error) for error in pillar.get("_errors") or ()]
    return pillar, problems or errors


def _settings(pillar: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pillar's ``drift`` with its defaults; a value that makes no sense counts as absent."""
    given = pillar.get("drift")
    return {**DEFAULTS, **(given if isinstance(given, Mapping) else {})}


def _folder(pillar: Mapping[str, Any]) -> Path:
    """Return where results are kept: on the disk of the share, unless the pillar says otherwise."""
    given = _settings(pillar)["path"]
    if isinstance(given, str):
        return Path(given)
    share = pillar.get("nfs")
    if isinstance(share, Mapping) and share.get("enabled", True) and share.get("path"):
        return Path(str(share["path"])) / "drift"
    return Path("/srv/saltberry/drift")


def _why_not_there(pillar: Mapping[str, Any], folder: Path) -> str:
    """Say why the folder cannot be written to now: its disk is away. "" when it is there.

    What were written below the mount point then would fill the card, and be hidden later.
    """
    share = pillar.get("nfs")
    if not isinstance(share, Mapping) or not share.get("disk"):
        return ""
    mount = Path(str(share.get("path")))
    if not folder.is_relative_to(mount) or os.path.ismount(mount):
        return ""
    return f"nothing was kept: the disk {share['disk']} is not mounted at {mount}"


def _book(pillar: Mapping[str, Any]) -> Any:
    keep = _settings(pillar)["keep"]
    return _logbook.Logbook(_folder(pillar), _state_dir(), keep if isinstance(keep, int) else 400)


def _every(settings: Mapping[str, Any]) -> float:
    """Return the seconds from one check to the next; 0 when none are due by themselves."""
    return 60.0 * settings["every_minutes"] if settings["enabled"] else 0.0


def _accepted() -> tuple[list[str], list[str]]:
    """Return the ids with accepted keys: those that may be asked, and those that may not."""
    names = [name for name, state in _minions.keys(__opts__).items() if state == "accepted"]
    valid = sorted(name for name in names if __utils__["rackspec.valid_id"](name))
    return valid, sorted(set(names) - set(valid))


def _mask(value: Any) -> Any:
    return __utils__["masking.tree"](value)


# --- checking ----------------------------------------------------------------------------------------


def check(tgt: str | None = None, format: str = "table", quiet: bool = False) -> Any:
    """Compare every node with its states, and say what differs. Changes nothing on any node.

    Nodes are asked ``drift.parallel`` at a time and have ``drift.node_timeout`` seconds each. Only one
    check, or fix, runs at a time: a second one ends at once with exit code 2.

    Each node is ``clean``, ``drifted`` (with the states that differ), ``unreachable``, ``render error``
    or ``apply in progress``. The exit code is 0 when all are clean, 1 when some drifted, 2 when not all
    could be checked, for whatever reason.

    tgt
        Ids, or patterns as in a shell, separated by commas (``pi-*,cp1``); None for all nodes whose
        keys are accepted. What is found about some only does not count as a check of the rack.
    format
        ``table``, ``json`` or ``junit``; on the command line only. ``--out=json`` works, too, as do
        Salt's other ``--out``, and ``--out-file`` writes to a file.
    quiet
        True: print nothing when all is clean, and only the table otherwise (for timers and cron).

    Returns the document ``{"kind", "rack", "tgt", "began", "seconds", "exit", "retcode", "counts",
    "nodes": {id: {"status", "reason", "states", "seconds", "drift", "more", "vitals", "checked",
    "roles"}}, "problems"}``; ``drift`` is as in the execution function ``drift.look``.

    CLI Example:

    .. code-block:: bash

        salt-run drift.check
        salt-run drift.check 'pi-*'
        salt-run drift.check format=junit --out-file=drift.xml
    """
    if format not in FORMATS:
        problem = f"format: {format!a} is none of {', '.join(FORMATS)}"
        return _printed({"problems": [problem], "retcode": 2}, problem, "check")
    document = _guarded("check", tgt, lambda book, pillar: _checked(book, pillar, tgt))
    texts = {"table": _findings.table, "json": _findings.as_json, "junit": _findings.junit}
    text = "" if quiet and not document["retcode"] else texts[format](document)
    return _printed(document, text, "check")


def _guarded(
    kind: str, tgt: str | None, work: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Do something that only one may do at a time; a second one says so and is noted as skipped."""
    pillar, problems = _pillar()
    book = _book(pillar)
    now = time.time()
    with _locks.held(_state_dir() / "drift.lock", wait=False) as mine:
        if not mine:
            return _skipped(book, pillar, kind, tgt)
        with _noted(book, pillar, now, tgt):
            if problems:
                return _finished(book, pillar, _document(kind, pillar, tgt, now, {}, problems))
            return work(book, pillar)


@contextlib.contextmanager
def _noted(book: Any, pillar: Mapping[str, Any], now: float, tgt: str | None) -> Iterator[None]:
    """Have it known that a check runs, so that one that hangs or is killed can be told."""
    left = book.running()
    if left is not None:  # we hold the lock, so whoever wrote it is gone
        seconds = now - left["began"]
        line = {"kind": "cut off", "began": left["began"], "tgt": left.get("tgt"), "seconds": None,
                "exit": None, "every": _every(_settings(pillar)),
                "reason": f"killed, or the power was; noticed {seconds:.0f} s later"}  # fmt: skip
        _note(book, pillar, line)
    book.begin(now, tgt)
    _write_metrics(book, pillar)
    try:
        yield
    finally:
        book.end()
        _write_metrics(book, pillar)


def _note(book: Any, pillar: Mapping[str, Any], line: Mapping[str, Any]) -> None:
    """Add a line to the history, if it can be."""
    if _why_not_there(pillar, book.folder):
        return
    try:
        with _locks.held(_state_dir() / "drift.history.lock", wait=True):
            book.note(line)
    except OSError as exc:
        log.warning("the history of drift checks could not be written: %s", exc)


def _skipped(book: Any, pillar: Mapping[str, Any], kind: str, tgt: str | None) -> dict[str, Any]:
    """Return what a check says that found another one running."""
    now = time.time()
    running = book.running() or {"began": now}
    seconds = now - running["began"]
    reason = f"another check or fix runs since {seconds:.0f} s"
    line = {
        "kind": "skipped",
        "began": now,
        "tgt": tgt,
        "seconds": None,
        "exit": 2,
        "reason": reason,
    }
    _note(book, pillar, line)
    problem = f"nothing was checked: {reason}; wait for its end"
    return _document(kind, pillar, tgt, now, {}, [problem])


def _document(  # noqa: PLR0917
    kind: str,
    pillar: Mapping[str, Any],
    tgt: str | None,
    began: float,
    nodes: dict[str, Any],
    problems: Iterable[str] = (),
) -> dict[str, Any]:
    """Return what a check found as one document."""
    rack = pillar.get("rack")
    code = _findings.exit_code(nodes, list(problems))
    return {
        "kind": kind,
        "rack": str(rack.get("name", "")) if isinstance(rack, Mapping) else "",
        "tgt": tgt,
        "began": began,
        "seconds": round(time.time() - began, 1),
        "exit": code,
        "retcode": code,
        "counts": _findings.counts(nodes),
        "nodes": nodes,
        "problems": list(problems),
    }


def _checked(book: Any, pillar: Mapping[str, Any], tgt: str | None) -> dict[str, Any]:
    """Check the nodes of a target, keep what was found, tell who wants to know."""
    began = time.time()
    valid, refused = _accepted()
    wanted = [name for name in [*valid, *refused] if _matches(name, tgt)]
    problems = []
    if not wanted:
        some = f"no accepted minion is called {tgt!a}" if tgt else "no minion's key is accepted"
        problems.append(f"{some}; salt-key -L lists them")
    nodes = _look_at([name for name in wanted if name in valid], _settings(pillar))
    for name in set(wanted) & set(refused):
        nodes[ascii(name)] = _findings.unchecked(NOT_A_HOST_NAME, now=time.time())
    rack = __utils__["rackspec.load"](pillar)
    for name, entry in nodes.items():
        entry["roles"] = rack.roles(name) if name in valid else []
    document = _document("check", pillar, tgt, began, dict(sorted(nodes.items())), problems)
    return _finished(book, pillar, document)


def _matches(name: str, tgt: str | None) -> bool:
    """Say whether a target means a node; matched here, for a pattern never goes to Salt."""
    if tgt is None:
        return True
    return any(fnmatch.fnmatchcase(name, part.strip()) for part in str(tgt).split(","))


def _look_at(names: list[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of nodes, each after its own word."""
    there = _up_to_date(names)
    rows = {
        name: _findings.unchecked(problem, now=time.time())
        for name, problem in there.items()
        if problem
    }
    ready = [name for name, problem in there.items() if not problem]
    size, limit = int(settings["parallel"]), int(settings["node_timeout"])
    for batch in _batches(ready, size):
        began = time.monotonic()
        for name, said, _code in _minions.asked(
            __opts__, batch, "drift.look", poll=min(POLL, limit), limit=limit
        ):
            rows[name] = _findings.row(said, now=time.time(), mask=_mask)
        for name in set(batch) - set(rows):
            slow = time.monotonic() - began >= limit
            reason = f"no answer within {limit} s" if slow else "it stopped answering"
            rows[name] = _findings.unchecked(reason, now=time.time())
    return rows


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _up_to_date(names: list[str]) -> dict[str, str]:
    """Return for each node "" when it answers and has our modules as they are now, else why not.

    With old modules a node would be compared with what it should have been.
    """
    shipped = _minions.shipped_modules(__opts__)
    found = dict.fromkeys(names, "it does not answer")
    stale = []
    for name, has, _code in _minions.asked(__opts__, names, "node.modules", poll=_minions.ANSWER):
        found[name] = ""
        if has != shipped:
            stale.append(name)
    for name in stale:
        synced = __salt__["rack.sync"](name)
        if not synced.get("ok"):
            found[name] = f"its modules could not be brought up to date: {synced.get('reason')}"
    return found


# --- what becomes of it ------------------------------------------------------------------------------


def _finished(book: Any, pillar: Mapping[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Keep what was found and tell people; what goes wrong with that is a problem of the check's."""
    settings = _settings(pillar)
    before = book.latest()["nodes"]
    for name, entry in document["nodes"].items():
        here = entry["status"] != _findings.UNREACHABLE
        entry["seen"] = entry["checked"] if here else (before.get(name) or {}).get("seen")
    away = _why_not_there(pillar, book.folder)
    if away:
        document["problems"].append(away)
    else:
        line = {**_findings.summary(document), "every": _every(settings)}
        try:
            with _locks.held(_state_dir() / "drift.history.lock", wait=True):
                book.record(document, line)
        except OSError as exc:
            document["problems"].append(
                f"nothing was kept: {exc.filename or book.folder}: {exc.strerror or exc}"
            )
    if document["tgt"] is None:
        document["problems"] += _tell(book, settings, document)
    code = _findings.exit_code(document["nodes"], document["problems"])
    document.update(exit=code, retcode=code)
    return document


def _write_metrics(book: Any, pillar: Mapping[str, Any]) -> None:
    """Write what Prometheus reads; whoever wants none sets ``drift.prometheus`` to null."""
    settings = _settings(pillar)
    if not isinstance(settings["prometheus"], str):
        return
    latest, running, now = book.latest(), book.running(), time.time()
    last, every = latest["check"] or {}, _every(settings)
    marks = {
        "check_duration_seconds": last.get("seconds"),
        "exit_code": last.get("exit"),
        "last_check_timestamp_seconds": last.get("ended"),
        "last_success_timestamp_seconds": latest.get("success"),
        "started_timestamp_seconds": running["began"] if running else 0,
        "interval_seconds": every,
        "unfinished": _logbook.unfinished(book.history(now, every), now),
    }
    folder = Path(settings["prometheus"])
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # whatever the umask: the exporter is another user
        _logbook.replace(folder / METRICS, _findings.metrics(latest["nodes"], marks), 0o644)
    except OSError as exc:
        log.warning("the metrics of drift checks could not be written: %s", exc)


def _tell(book: Any, settings: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Send a notice when what was found is not what the last one said; return what went wrong."""
    ways: list[Callable[[], None]] = []
    hook = _state_dir() / WEBHOOK
    if settings["mail"]:
        ways.append(lambda: _mail(str(settings["mail"]), document))
    if hook.exists():
        ways.append(lambda: _post(hook, document))
    verdict = _findings.verdict(document["nodes"])
    if document["problems"]:
        verdict["(rack)"] = sorted(document["problems"])
    if not ways or verdict == (book.told() or {}):
        return []
    problems = []
    for send in ways:
        try:
            send()
        except _Refused as exc:
            problems.append(str(exc))
    if len(problems) < len(ways):
        book.tell(verdict)
    return problems


def _subject(document: Mapping[str, Any]) -> str:
    said = ", ".join(f"{count} {what}" for what, count in document["counts"].items() if count)
    return f"rack {document['rack']}: {said or 'nothing could be checked'}"


def _mail(address: str, document: Mapping[str, Any]) -> None:
    message = EmailMessage()
    message["To"], message["From"] = address, f"saltberry@{os.uname().nodename}"
    message["Subject"] = _subject(document)
    message.set_content(_findings.table(document))
    try:
        subprocess.run(
            [SENDMAIL, "-i", "-t"], input=bytes(message), check=True, capture_output=True,
            timeout=NOTICE_LIMIT,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as exc:
        raise _Refused(f"no mail was sent to {address}: {SENDMAIL}: {_outcome.plain(exc)}") from exc


def _post(hook: Path, document: Mapping[str, Any]) -> None:
    """Post a notice; ``text`` is what chat programs show, the rest is for others."""
    body = {
        "text": f"{_subject(document)}\n{_findings.table(document)}",
        **{key: document[key] for key in ("rack", "began", "exit", "counts")},
        "drift": {name: said[1:] for name, said in _findings.verdict(document["nodes"]).items()},
    }
    try:
        url = hook.read_text(encoding="utf-8").strip()
        if not url.startswith(("https://", "http://")):
            raise _Refused(f"no notice was posted: {hook} holds no http(s) URL")
        request = urllib.request.Request(
            url, _findings.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=NOTICE_LIMIT):
            pass
    except (OSError, ValueError, urllib.error.URLError) as exc:
        # Its text may hold the URL, which is a secret
        why = getattr(exc, "code", None) or type(getattr(exc, "reason", exc)).__name__
        raise _Refused(f"no notice was posted to the URL in {hook}: {why}") from None


# --- one node ----------------------------------------------------------------------------------------


def _one(node: str) -> str:
    """Return an id that may be asked.

    Raises:
        _Refused: the master holds no accepted key of it, or it is no host name.
    """
    if not __utils__["rackspec.valid_id"](node) or node not in _accepted()[0]:
        raise _Refused(f"the master holds no accepted key of {node!a}; salt-key -L lists them")
    return node


def diff(node: str) -> Any:
    """Show what differed on a node when it was checked last.

    node
        Its id.

    Returns the node's part of the last check, ``{"node", "status", "reason", "drift", …}``; the
    exit code is as for :func:`check`.

    CLI Example:

    .. code-block:: bash

        salt-run drift.diff pi-07
    """
    pillar, _problems = _pillar()
    entry = _book(pillar).latest()["nodes"].get(str(node))
    if entry is None:
        reason = f"{node!a} was never checked; salt-run drift.check {node} does"
        if not __utils__["rackspec.valid_id"](node):
            reason = f"{node!a} is no plain host name"
        return _printed({"ok": False, "reason": reason, "retcode": 2}, reason, "diff")
    code = _findings.exit_code({node: entry})
    return _printed({"node": node, **entry, "retcode": code}, _findings.diff(node, entry), "diff")


def fix(node: str) -> Any:
    """Bring a node back to what the pillar describes: apply its highstate, check it again.

    What the highstate does to a member of the cluster is what it does in ``state.apply``: versions of
    Kubernetes and the place of the containers' data are never changed by it.

    node
        Its id.

    Returns ``{"node", "applied": {"problem", "changed": [{"id", "function", "name", "comment",
    "changes", "failed"}]}, "nodes": {id: its row after the check}, "exit", "retcode", …}``; exit codes
    as for :func:`check`.

    CLI Example:

    .. code-block:: bash

        salt-run drift.fix pi-07
    """
    try:
        _one(node)
    except _Refused as exc:
        return _printed({"ok": False, "reason": str(exc), "retcode": 2}, str(exc), "fix")
    document = _guarded("fix", node, lambda book, pillar: _fixed(book, pillar, node))
    return _printed(document, _findings.fixed(node, document), "fix")


def _fixed(book: Any, pillar: Mapping[str, Any], node: str) -> dict[str, Any]:
    began = time.time()
    settings = _settings(pillar)
    before = _look_at([node], settings)[node]
    if before["status"] == _findings.UNREACHABLE:
        applied, rows = {"problem": before["reason"], "changed": []}, {node: before}
    else:
        applied, rows = _applied(node, before), _look_after(node, settings)
    rows[node]["roles"] = __utils__["rackspec.load"](pillar).roles(node)
    document = _document("fix", pillar, node, began, rows)
    return {**_finished(book, pillar, document), "node": node, "applied": applied}


def _look_after(node: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's row after its highstate, which may have restarted the minion."""
    for pause in RESTARTING:
        rows = _look_at([node], settings)
        if rows[node]["status"] != _findings.UNREACHABLE:
            break
        time.sleep(pause)
    return rows


def _applied(node: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a node's highstate; return what it changed, and why it did not work if so.

    This is ``state.apply`` itself and not a function of our own around it: only so does Salt see
    that states run, and keeps others from running beside them. What it changed is shown as the node
    itself masked it before.
    """
    wanted = {"queue": True}
    for _name, returned, code in _minions.asked(
        __opts__, [node], "state.apply", wanted, poll=_minions.POLL, limit=FIX_LIMIT
    ):
        problem = _outcome.states(returned)
        return {
            "problem": problem or (f"the highstate ended with code {code}" if code else ""),
            "changed": _findings.changed(returned, before, _mask),
        }
    return {"problem": _outcome.NO_ANSWER, "changed": []}


def known() -> dict[str, Any]:
    """Return all that the checks have kept, for the page and other programs.

    Returns ``{"rack": its name, "every": seconds between checks (0: none are due), "latest":
    {"nodes": {id: row}, "check": the last one of the whole rack, "success": when all were reached
    last}, "history": as of :func:`history`}``.

    CLI Example:

    .. code-block:: bash

        salt-run drift.known --out=json
    """
    pillar, _problems = _pillar()
    book, every = _book(pillar), _every(_settings(pillar))
    rack = pillar.get("rack")
    return {
        "rack": str(rack.get("name", "")) if isinstance(rack, Mapping) else "",
        "every": every,
        "latest": book.latest(),
        "history": book.history(time.time(), every),
    }


# --- the past ----------------------------------------------------------------------------------------


def history(limit: int = 20) -> Any:
    """Tell what the last checks found, and which ones were missed, skipped, cut off or hang.

    limit
        How many lines at most.

    Returns ``{"history": [{"kind", "began", "seconds", "exit", "counts", "drift", …}], "retcode": 0}``,
    the newest last; ``kind`` is check, fix, running, missed, skipped, cut off or hung.

    CLI Example:

    .. code-block:: bash

        salt-run drift.history
    """
    pillar, _problems = _pillar()
    entries = _book(pillar).history(time.time(), _every(_settings(pillar)))[-max(1, int(limit)) :]
    text = _findings.history(entries) if entries else "no check has been made yet"
    return _printed({"history": entries, "retcode": 0}, text, "history")
