"""Make the rack what the pillar says it is: look at it, close the difference, tell how it stands.

* :func:`reconcile` compares the rack that is wanted (accepted keys and the roles of the pillar) with
  the rack that is (what the API server says) and works on the difference. It is level-triggered:
  it looks at the whole rack and not at the event that woke it, so that a lost, doubled or late event,
  a restarted master and a node that lost power all come down to "run it again".
* :func:`wake` is all that the reactor calls: it asks for a reconcile and returns.
* :func:`status`, :func:`validate`, :func:`explain` and :func:`retry` are for people.
* :func:`sync`, :func:`preflight`, :func:`states`, :func:`join`, :func:`ready`, :func:`drain` and
  :func:`reboot` are the stages of ``salt/orch/join.sls``, ``move.sls`` and ``reboot.sls``.

A minion's id is the minion's word, and Salt hardly checks it. An id that is no plain host name is
never passed on; all others go to Salt as an exact list, never as a glob.

Master configuration (all optional)::

    saltberry:
      state_dir: /var/lib/saltberry     # cluster.json, attempts.json, locks
      run_dir: /run/saltberry           # reconcile.request
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__context__: dict[str, Any]


def _beside(name: str) -> ModuleType:
    """Load a module of this folder. Salt's loader leaves names with _ alone, and has no place for
    code that only the master needs: what is in ``_utils/`` goes to every minion."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"saltberry{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_attempts = _beside("_attempts")
_figures = _beside("_figures")
_locks = _beside("_locks")
_logbook = _beside("_logbook")
_minions = _beside("_minions")
_outcome = _beside("_outcome")
_rackplan = _beside("_rackplan")
_settings_help = _beside("_settings")
_stages = _beside("_stages")
_workers = _beside("_workers")

# Seconds
ANSWER, POLL, LIMIT = _minions.ANSWER, _minions.POLL, _minions.LIMIT
API_LIMIT = 45
STATUS_ANSWER, STATUS_LIMIT = 2, 8
SETTLE_LIMIT = 1800
SERVICES_LIMIT = 1500
# Hundreds of GB over a home network
MOVE_LIMIT = 48 * 3600
# Each try stops what runs on the node
MOVE_PAUSE = [3600.0]
# What is done to a Ready member while its pods are elsewhere: done, not done
DRAINED_WORK = {"move": ("moved", "not moved"), "reboot": ("rebooted", "not rebooted")}
REBOOT_LIMIT = 900
# An answer of a node that waits for its turn is believed for so long; the stages of its join would
# notice if it was gone meanwhile.
HEARD_FOR = 60.0
# A burst of events (the whole rack switched on) is one look and not fifty.
PAUSE_BETWEEN_LOOKS = 2.0

# Made anew at every start of a node, also of a container: tells one start from the next.
BOOT_MARK = "/run/systemd/private"
SETTLE = "(settle)"  # the job that does the rest of the rack; no host name, so no node's id

# The API server refuses fewer than ten minutes
TOKEN_TTL = (600, 86400)
EVENT = "saltberry/node/{}/{}"
ADMIN_KUBECONFIG = "/root/.kube/config"


# --- where things are ------------------------------------------------------------------------------


def _folder(key: str, default: str) -> Path:
    return Path((__opts__.get("saltberry") or {}).get(key, default))


def _state(name: str) -> Path:
    """Return a file of the state folder, which is made when it is missing (0700)."""
    folder = _folder("state_dir", "/var/lib/saltberry")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


def _request() -> Path:
    """Return the file whose existence asks for a look at the rack."""
    folder = _folder("run_dir", "/run/saltberry")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "reconcile.request"


def _lock(name: str, *, wait: bool) -> contextlib.AbstractContextManager[bool]:
    """Hold a lock file of the state folder, see ``_locks.held``."""
    held: contextlib.AbstractContextManager[bool] = _locks.held(_state(name), wait=wait)
    return held


def _book() -> dict[str, dict[str, Any]]:
    return _attempts.load(_state("attempts.json"))


def _edit_book(
    change: Callable[[dict[str, dict[str, Any]]], None],
) -> dict[str, dict[str, Any]]:
    """Change the record of attempts: read, change, write, with nobody in between."""
    with _lock("attempts.lock", wait=True):
        book = _book()
        change(book)
        _attempts.write_json(_state("attempts.json"), book)
    return book


def _known_cluster() -> dict[str, Any]:
    """Return ``cluster.json``, or {} when there is none that can be read."""
    try:
        facts = json.loads(_state("cluster.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


# --- what is wanted --------------------------------------------------------------------------------


class _Refused(Exception):
    """The rack cannot be worked on; ``problems`` says why, a sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _rack() -> Any:
    """Return the rack that the pillar describes (a ``rackspec.Rack``).

    Raises:
        _Refused: the pillar does not render, or describes no rack that can be built.
    """
    pillar = __salt__["pillar.show_pillar"](__opts__["id"])
    errors = pillar.get("_errors")
    problems = __utils__["rackspec.check"](pillar)
    if problems:
        raise _Refused(problems)
    if errors:
        raise _Refused([_outcome.plain(error) for error in errors])
    return __utils__["rackspec.load"](pillar)


def _settings(rack: Any) -> dict[str, Any]:
    """Return the pillar's ``reconcile`` key with its defaults."""
    given = rack.pillar.get("reconcile") or {}
    return {
        "parallel": 5,
        "backoff_seconds": [15, 60, 300, 900],
        "ready_timeout": 180,
        "drain_timeout": 300,
        "reboot": True,
        **given,
    }


def _keys() -> dict[str, str]:
    return dict(_minions.keys(__opts__))


def _valid(names: Iterable[str]) -> list[str]:
    return [name for name in names if __utils__["rackspec.valid_id"](name)]


# --- asking minions --------------------------------------------------------------------------------


def _asked(
    nodes: Iterable[str],
    function: str | Mapping[str, list[Any]],
    kwargs: Mapping[str, Any] | None = None,
    *,
    poll: float = ANSWER,
    limit: float = LIMIT,
) -> Iterator[tuple[str, Any, int]]:
    """Call a function on minions, see ``_minions.asked``; ids that are no host names are left out."""
    yield from _minions.asked(__opts__, _valid(nodes), function, kwargs, poll=poll, limit=limit)


class _Failed(Exception):
    """A minion did not do what it was asked; the text is one plain line."""


def _call(node: str, function: str, kwargs: Mapping[str, Any], limit: float = LIMIT) -> Any:
    """Call a function on one minion and return what it gave.

    Raises:
        _Failed: no answer, or the function failed.
    """
    for _, returned, code in _asked([node], function, kwargs, poll=POLL, limit=limit):
        if code:
            raise _Failed(_outcome.answer(returned))
        return returned
    raise _Failed(f"{node} does not answer")


def _apply_on(
    nodes: Iterable[str],
    sls: str | None,
    pillar: Mapping[str, Any] | None = None,
    limit: float = LIMIT,
) -> dict[str, str]:
    """Apply some SLS on some minions at once, on each after whatever states run there now.

    Args:
        nodes: ids.
        sls: names, separated by commas; None for the highstate.
        pillar: laid over the nodes' own.
        limit: seconds after which nobody is waited for any more.

    Returns:
        For every id why it failed, "" where it did not.
    """
    kwargs: dict[str, Any] = {"queue": True}
    if sls:
        kwargs["mods"] = sls
    if pillar:
        kwargs["pillar"] = dict(pillar)
    problems = {node: f"{node} does not answer" for node in nodes}
    for node, returned, code in _asked(problems, "state.apply", kwargs, poll=POLL, limit=limit):
        problem = _outcome.states(returned)
        problems[node] = problem or (f"{sls or 'highstate'} ended with code {code}" if code else "")
    return problems


def _apply(
    node: str, sls: str | None, pillar: Mapping[str, Any] | None = None, limit: float = LIMIT
) -> None:
    """Apply some SLS on one minion, or its highstate (None).

    Raises:
        _Failed: no answer, or a state failed.
    """
    problem = _apply_on([node], sls, pillar, limit)[node]
    if problem:
        raise _Failed(problem)


def _cluster_now(
    control_plane: str, poll: float = ANSWER, limit: float = API_LIMIT
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return ``(nodes, facts)`` from the control plane; None for what it cannot say.

    With the facts goes which pod network the cluster has.
    """
    wanted: dict[str, list[Any]] = {"kubeadm.nodes": [], "kubeadm.facts": [], "cni.in_use": []}
    for _, returned, _code in _asked([control_plane], wanted, poll=poll, limit=limit):
        if not isinstance(returned, dict):
            return None, None
        # a function that fails gives its error text instead
        nodes, facts, used = (
            found if isinstance(found := returned.get(name), dict) else None for name in wanted
        )
        return nodes, facts and {**facts, "cni": (used or {}).get("cni")}
    return None, None


def _refresh_cluster(rack: Any) -> Any:
    """Ask the control plane for the nodes, write ``cluster.json``, and return the nodes.

    Several processes do this; the lock is held over question and answer, so that the last one to
    write is also the last one to have asked.

    Returns:
        ``kubeadm.nodes``, or None when the API server does not answer (the file then stays).
    """
    control_plane = rack.control_planes[0]
    with _lock("cluster.lock", wait=True):
        nodes, facts = _cluster_now(control_plane)
        if nodes and facts and facts.get("ca_hash"):
            port = (rack.pillar.get("kubernetes") or {}).get("api_port", 6443)
            known = {
                "endpoint": f"{rack.ip(control_plane)}:{port}",
                "ca_hash": facts["ca_hash"],
                "version": (nodes.get(control_plane) or {}).get("version"),
                # Before it has one it does not say
                **({"cni": facts["cni"]} if facts["cni"] else {}),
                "nodes": {
                    name: {"ip": fact.get("ip"), "pod_cidr": fact.get("pod_cidr")}
                    for name, fact in nodes.items()
                },
            }
            if known != _known_cluster():
                _attempts.write_json(_state("cluster.json"), known, mode=0o644)
    return nodes


# --- the reconcile ---------------------------------------------------------------------------------


def wake() -> bool:
    """Ask for a look at the rack, and return at once.

    This is all that the reactor runs. It takes nothing from the event: who started, and what a
    minion says of itself, is looked up by :func:`reconcile` where it can be trusted.

    CLI Example:

    .. code-block:: bash

        salt-run rack.wake
    """
    _request().touch()
    return True


def reconcile(wait: bool = False) -> dict[str, Any]:
    """Look at the rack and close the difference to what the pillar describes.

    Brings every accepted node that is not in the cluster, or not Ready, to Ready: the control plane
    first, then up to ``reconcile.parallel`` workers at a time. A node that fails is left alone for a
    while (``reconcile.backoff_seconds``) and holds up no other. Then the rest of the rack is told
    about the nodes that came or went. When the rack is whole, nodes whose container data shall live
    elsewhere are drained and moved, one at a time. Goes on until nothing is left to do now.

    Only one runs at a time. A request that comes in meanwhile is taken up by the one that runs.

    wait
        When another one runs: wait for its end and look again, instead of leaving the request to it.

    Returns ``{"nodes": {id: what became of it}, "seconds": float}``; ``{"queued": True}`` when
    another reconcile runs; ``{"problems": [...], "retcode": 1}`` when the pillar describes no rack.

    CLI Example:

    .. code-block:: bash

        salt-run rack.reconcile
    """
    began = time.monotonic()
    request = _request()
    request.touch()
    results: dict[str, str] = {}
    while True:
        with _lock("reconcile.lock", wait=wait) as mine:
            if not mine:
                return {"queued": True, "comment": "another reconcile runs and will look again"}
            with _minions.one_client(__opts__), _Reconcile() as run:
                try:
                    run.until_done()
                except _Refused as exc:
                    return {"problems": exc.problems, "retcode": 1}
                results.update(run.results)
        # A request may have come after our last look, from one who then found the lock taken.
        if not request.exists():
            _write_figures()
            return {"nodes": results, "seconds": round(time.monotonic() - began, 1)}


def _write_figures() -> None:
    """Write how the rack stands for the node exporter, where there is one."""
    if not _figures.FOLDER.is_dir():
        return
    try:
        text = _figures.text(_status(), time.time())
        _logbook.replace(_figures.FOLDER / _figures.FILE, text, 0o644)
    except OSError as exc:
        log.warning("the rack's figures could not be written: %s", exc)


class _Reconcile:
    """One holder of the lock: looks, starts jobs, records how they end, until nothing is left."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.jobs = _workers.Workers()
        self.unsettled = True
        self.moves_unseen = False
        self.unsure: list[str] = []
        self.steps: list[float] = []
        self.heard: dict[str, tuple[float, str]] = {}  # id: when it answered, and its boot mark
        self.handler: Any = None

    def __enter__(self) -> _Reconcile:
        if threading.current_thread() is threading.main_thread():
            # systemd stops services with this signal: leave by an exception, so that __exit__ runs
            self.handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for done in self.jobs.stop_all("interrupted: the reconcile was stopped"):
            self._finished(done)
        if self.handler is not None:
            signal.signal(signal.SIGTERM, self.handler)

    def until_done(self) -> None:
        """Look and work until nothing runs and nobody asks for another look.

        Raises:
            _Refused: the pillar describes no rack. Jobs that run when it becomes bad are not
                stopped: it was good when they began.
        """
        refused: _Refused | None = None
        looked = 0.0
        look = True
        while look or self.jobs:
            if look and time.monotonic() - looked >= PAUSE_BETWEEN_LOOKS:
                refused = self._look_unless_refused()
                looked, look = time.monotonic(), False
            for done in self.jobs.finished(timeout=0.5):
                self._finished(done)
                look = look or done.name != SETTLE or self.unsettled or self.moves_unseen
            look = look or _request().exists()
            if not self.jobs:
                time.sleep(0.1)
        if refused:
            raise refused
        self._come_back_later()

    def _look_unless_refused(self) -> _Refused | None:
        try:
            self._look()
        except _Refused as exc:
            log.warning("%s", exc)
            return exc
        return None

    def _look(self) -> None:
        """Compare the rack wanted with the rack that is, and start what can be started."""
        if _request().exists():
            self.heard.clear()  # who asks for a look has news: a node that was off and on, perhaps
        _request().unlink(missing_ok=True)  # before looking: what changes from here on asks again
        rack = _rack()
        self.steps = list(_settings(rack)["backoff_seconds"])
        __salt__["enrol.expire"]()  # cards that nobody used in time open nothing any more
        known = set(rack.pillar.get("nodes") or {})
        __salt__["enrol.note_known"](known, (rack.pillar.get("strangers") or {}).get("keys"))
        keys = _keys()
        accepted = [name for name, state in keys.items() if state == "accepted"]
        roles = {name: rack.roles(name) for name in _valid(accepted)}
        for name in sorted(set(accepted) - set(roles)):
            self.results[ascii(name)] = "refused: its id is not a plain host name"
        control_plane = rack.control_planes[0]
        nodes = _refresh_cluster(rack) if control_plane in roles else None
        book = self._tidy(roles, nodes)
        paused = [name for name, record in book.items() if not _due(record)]
        plan = _rackplan.plan(roles, nodes, control_plane, paused)
        log.info("look: %s", {name: step.action for name, step in plan.items()})
        self._note(plan, book)
        self._start_nodes(plan, rack, book)
        ready = [name for name, step in plan.items() if step.action == "ready"]
        open_again = not any(nodes[name].get("drained_for") for name in ready) if nodes else False
        self.moves_unseen = bool(self.jobs) or not open_again
        if not self.moves_unseen:
            self._start_move(rack, ready)
            self._start_reboot(rack, ready)
        self._start_settling(rack, roles, nodes)

    def _tidy(self, roles: Mapping[str, Any], nodes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Bring the record up to date with what is seen: nodes that are gone, jobs that ended."""
        self.unsure = []

        def change(book: dict[str, dict[str, Any]]) -> None:
            for name in [name for name in book if name not in roles]:
                del book[name]
            for name, record in book.items():
                if name in self.jobs:
                    continue
                if record.get("running"):
                    book[name] = {**record, "running": False}
                joined = ((nodes or {}).get(name) or {}).get("ready")
                if record.get("attempts") and record.get("work", "join") == "join" and joined:
                    # It is Ready, but nobody saw the end of the attempt (the master lost power):
                    # its join token may still be alive.
                    self.unsure.append(name)
                    self.unsettled = True

        return _edit_book(change)

    def _note(self, plan: Mapping[str, Any], book: Mapping[str, Any]) -> None:
        """Write down how every node stands before anything is started."""
        for name, step in plan.items():
            ended = self.ended.get(name, "")
            if step.action == "ready":
                drained = book.get(name, {}).get("work") in DRAINED_WORK
                said = ended if drained or ended.startswith("ready") else ""
                self.results[name] = said or "ready"
            elif step.action == "later":
                reason = book.get(name, {}).get("reason", "")
                self.results[name] = ended or f"left alone for a while after: {reason}"
            elif step.action == "outside":
                self.results[name] = "no part of the cluster by its roles"
            elif name not in self.jobs:
                self.results[name] = step.reason or "waiting for its turn"

    def _start_nodes(self, plan: Mapping[str, Any], rack: Any, book: Mapping[str, Any]) -> None:
        """Ask the nodes of the difference who is there, and start on each that answers."""
        wanted = [
            name
            for name, step in plan.items()
            if step.action in ("join", "mend", "later") or name in self.jobs
        ]
        answered = set()
        for name, boot in self._there(wanted):
            answered.add(name)
            log.info("%s answers; started at %s", name, boot or "?")
            before = book.get(name, {})
            record = _attempts.restarted(before, boot, self.steps)
            if name in self.jobs:
                # A node that is being rebooted is not, by somebody else
                if record != before and before.get("work") != "reboot":
                    self.jobs.stop(name, "it was switched off and on again in the middle")
                continue
            if _due(record) and self._has_room(rack):
                self._start(name, {**record, "boot": boot}, "join", rack, LIMIT)
            elif record != before:
                self._record(name, record)
        for name in wanted:
            if name not in answered and name not in self.jobs:
                self.results[name] = "unreachable"
        __salt__["enrol.met"](sorted(answered))

    def _there(self, wanted: list[str]) -> Iterator[tuple[str, str]]:
        """Yield ``(id, boot mark)`` of the wanted nodes that are there, each as soon as that is known.

        Those that work are asked each time, so that a power cut is noticed. Of the others an answer
        counts for a while: when thirty wait for three places, asking all of them at each look would
        keep the master busier than the joins do.
        """
        now = time.monotonic()
        idle = {
            name: boot
            for name, (when, boot) in self.heard.items()
            if name in wanted and name not in self.jobs and now - when < HEARD_FOR
        }
        # First, so that a place that became free is taken before those that work have answered.
        yield from idle.items()
        for name, boot in _answering(sorted(set(wanted) - set(idle))):
            if name not in self.jobs:
                self.heard[name] = (now, boot)
            yield name, boot

    def _has_room(self, rack: Any) -> bool:
        return len(set(self.jobs) - {SETTLE}) < int(_settings(rack)["parallel"])

    def _record(self, name: str, record: Mapping[str, Any]) -> None:
        def change(book: dict[str, dict[str, Any]]) -> None:
            book[name] = dict(record)

        _edit_book(change)

    def _start_move(self, rack: Any, members: list[str]) -> None:
        """Start moving the container data of one node that wants it, when nothing else runs.

        A drained node is room that the others have to give: one at a time, and none while nodes
        join. A node that is still drained from an attempt before is left to the settling first.
        """
        book = _book()
        asked = _asked(members, "container_storage.wanted")
        wanting = [name for name, wish, code in asked if not code and wish]
        for name, boot in sorted(_answering(wanting)):
            record = {**book.get(name, {}), "boot": boot}
            if not self.jobs and _due(record):
                self._start(name, record, "move", rack, MOVE_LIMIT)
            elif name not in self.ended:
                self.results[name] = "ready; waits for its turn to move its container data"

    def _start_reboot(self, rack: Any, members: list[str]) -> None:
        """Start rebooting one node that wants it, when nothing else runs; see :meth:`_start_move`.

        A node that still wants for the same reasons after its reboot is not rebooted again: it would
        be without end. Its reasons are forgotten once it has none.
        """
        if self.jobs or not _settings(rack)["reboot"]:
            return
        asked = _asked(members, "node.reboot_wanted")
        wishes = {name: reasons for name, reasons, code in asked if not code}
        done = _attempts.load(_state("reboots.json"))
        tried = {name: done[name] for name in done if wishes.get(name, True)}
        book = _book()
        for name, boot in sorted(_answering([name for name in wishes if wishes[name]])):
            record = {**book.get(name, {}), "boot": boot}
            if tried.get(name, {}).get("reasons") == wishes[name]:
                why = "; ".join(map(str, wishes[name]))
                self.results[name] = f"ready; rebooted, and still wants it: {why}"
            elif not self.jobs and _due(record):
                tried[name] = {"reasons": wishes[name], "at": time.time()}
                self._start(name, record, "reboot", rack, LIMIT)
            elif name not in self.ended:
                self.results[name] = "ready; waits for its turn to be rebooted"
        if tried != done:
            _attempts.write_json(_state("reboots.json"), tried)

    def _start(
        self, name: str, record: Mapping[str, Any], work: str, rack: Any, limit: float
    ) -> None:
        """Start ``orch.<work>`` on one node; its record is written first, as if cut off now."""
        record = _attempts.started(record, time.time(), self.steps)
        self.heard.pop(name, None)
        self._record(name, {**record, "work": work})
        log.info("%s: %s", name, work)
        self.results[name] = "started"
        task = {
            "node": name,
            "role": _rackplan.member_role(rack.roles(name)),
            "control_plane": rack.control_planes[0],
        }
        self.jobs.start(name, _orchestrate, dict(__opts__), f"orch.{work}", task, limit=limit)

    def _start_settling(self, rack: Any, roles: Mapping[str, Any], nodes: Any) -> None:
        """Start bringing the rest of the rack in line, when there may be something to do."""
        if not self.unsettled or SETTLE in self.jobs or not nodes:
            return
        members = [
            name for name in roles if (nodes.get(name) or {}).get("ready") and name not in self.jobs
        ]
        self.unsettled = False
        drained = [name for name in members if nodes[name].get("drained_for")]
        self.jobs.start(SETTLE, _settle, rack, members, self.unsure, drained, limit=SETTLE_LIMIT)

    def _finished(self, done: Any) -> None:
        """Record how a job ended, and say so on the event bus."""
        if done.name == SETTLE:
            self._settled(done)
            return
        self.unsettled = True
        outcome = done.result or SimpleNamespace(
            ok=False, stage="", reason=done.problem, seconds={}
        )
        before = _book().get(done.name, {})
        if outcome.ok:
            self._record(done.name, _attempts.succeeded(before, outcome.seconds))
            what = DRAINED_WORK.get(str(before.get("work")), ("ready", ""))[0]
            self._ended(done.name, f"{what} after {done.seconds:.0f} s")
            _fire(done.name, what, {"seconds": done.seconds, "stages": outcome.seconds})
            log.info("%s: %s after %.0f s", done.name, what, done.seconds)
            return
        failure = {"stage": outcome.stage, "reason": outcome.reason}
        drained = before.get("work") in DRAINED_WORK
        steps = MOVE_PAUSE if drained else self.steps
        self._record(
            done.name,
            _attempts.failed(before, time.time(), steps, seconds=outcome.seconds, **failure),
        )
        stage = f"{outcome.stage}: " if outcome.stage else ""
        what = DRAINED_WORK.get(str(before.get("work")), ("", "failed"))[1]
        self._ended(done.name, f"{what}: {stage}{outcome.reason}")
        _fire(done.name, "failed", failure)
        log.warning("%s: %s%s", done.name, stage, outcome.reason)
        self._come_back_later()

    def _settled(self, done: Any) -> None:
        """Note what the rest of the rack still lacks, and who has no token left for certain."""
        result = done.result or SimpleNamespace(problems=[done.problem], freed=[])
        for problem in result.problems:
            log.warning("%s", problem)
            self.results[SETTLE] = problem
        for name in result.freed:
            self._record(name, _attempts.succeeded(_book().get(name, {})))

    def _ended(self, name: str, text: str) -> None:
        self.ended[name] = self.results[name] = text

    def _come_back_later(self) -> None:
        """Have systemd ask again when the first pause ends."""
        # A pause that is over is of a node that does not answer: it asks for a look when it is back.
        now = time.time()
        ends = [float(record.get("next", 0)) for record in _book().values()]
        pauses = [end - now for end in ends if end > now]
        if pauses:
            _wake_in(max(1.0, min(pauses)))


def _leave(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


def _due(record: Mapping[str, Any]) -> bool:
    return _attempts.due(record, time.time())


def _answering(nodes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield ``(id, boot mark)`` of the nodes that answer, each as soon as it does."""
    for node, returned, _code in _asked(nodes, "file.lstat", {"path": BOOT_MARK}):
        made = returned.get("st_ctime", "") if isinstance(returned, dict) else ""
        yield node, str(made)


def _wake_in(seconds: float) -> None:
    """Ask for a look after a while, where systemd runs; elsewhere the sweep or a person does.

    A transient timer costs nothing while it waits; a process that slept instead would hold some
    70 MB for as long as any node fails.
    """
    systemd_run = shutil.which("systemd-run")
    if systemd_run is None or not Path("/run/systemd/system").is_dir():
        return
    unit = "saltberry-retry"
    commands = [
        ["systemctl", "stop", "--quiet", f"{unit}.timer"],
        [
            *(systemd_run, "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds:.0f}"),
            *("--timer-property=AccuracySec=1s", "touch", str(_request())),
        ],
    ]
    for command in commands:
        subprocess.run(command, check=False, capture_output=True, timeout=30)


def _fire(node: str, what: str, data: Mapping[str, Any]) -> None:
    """Fire ``saltberry/node/<id>/<what>`` from the master."""
    import salt.utils.event

    tag = EVENT.format(node, what)
    with contextlib.suppress(Exception):  # nobody's join fails because nobody listens
        with salt.utils.event.get_master_event(
            dict(__opts__), __opts__["sock_dir"], listen=False
        ) as bus:
            bus.fire_event({"id": node, **data}, tag)


# --- what runs in a process of its own -------------------------------------------------------------


def _orchestrate(opts: dict[str, Any], mods: str, task: dict[str, Any]) -> Any:
    """Run an orchestration for one node and return what became of it (a ``_stages.Outcome``)."""
    try:
        stages = _stages.read(_compiled(opts, mods, task))
    except Exception as exc:
        return SimpleNamespace(
            ok=False, stage="", reason=_outcome.plain(f"{mods}: {exc}"), seconds={}
        )
    functions = {f"rack.{stage.__name__}": stage for stage in STAGES}
    with _minions.one_client(__opts__):
        return SimpleNamespace(**_stages.run(stages, functions, _outcome.answer)._asdict())


def _compiled(opts: dict[str, Any], mods: str, task: dict[str, Any]) -> Any:
    """Return what an orchestration's SLS says for a task.

    Raises:
        OSError: the checkout has no such SLS.
        salt.exceptions.SaltRenderError: it does not render.
    """
    import salt.loader
    import salt.template

    (root,) = opts["file_roots"]["base"][:1]
    path = Path(root, *mods.split(".")).with_suffix(".sls")
    path.stat()
    renderers = salt.loader.render({**opts, "pillar": {"task": task}}, {})
    return salt.template.compile_template(str(path), renderers, "jinja|yaml", [], [])


def _settle(rack: Any, members: list[str], unsure: list[str], drained: list[str]) -> Any:
    """Bring the rest of the rack in line with the nodes that came or went.

    Args:
        rack: the rack.
        members: ids of the nodes that are Ready and that nobody works on.
        unsure: ids of nodes whose join tokens may have outlived their join.
        drained: ids of nodes that were drained for work that is over, or was cut off.

    Returns:
        ``problems``, a line each (the next reconcile tries again), and ``freed``, the ids of
        ``unsure`` whose tokens are gone.
    """
    problems: list[str] = []

    def done(what: str, do: Callable[[], Any]) -> bool:
        try:
            do()
        except _Failed as exc:
            problems.append(f"{what}: {exc}")
            return False
        return True

    control_plane = rack.control_planes[0]
    freed = [
        name
        for name in unsure
        if done(f"the join token of {name}", partial(_revoke, control_plane, name))
    ]
    for name in drained:
        uncordon = partial(_call, control_plane, "kubeadm.uncordon", {"node": name}, 2 * POLL)
        done(f"{name} still takes no pods", uncordon)
    if _serving_certificates(rack):
        done("the certificates that kubelets serve with", partial(_approve_certificates, rack))
    stale = _stale_routes(rack, members)
    told = _apply_on(stale, "cni")
    problems += [f"the routes of {name}: {problem}" for name, problem in told.items() if problem]
    done("the exports of the share", partial(_export_share, rack))
    done("the admin's kubeconfig", partial(_hand_over_kubeconfig, rack))
    if any(name not in rack.control_planes for name in members):
        done("the services", partial(_bring_services, rack))
    return SimpleNamespace(problems=problems, freed=freed)


def _serving_certificates(rack: Any) -> bool:
    """Say whether the kubelets ask for the certificates that they serve their port with."""
    wanted: bool = __utils__["kubeadm_config.asks_for_serving_certificates"](rack.pillar)
    return wanted


def _approve_certificates(rack: Any) -> None:
    """Approve the requests of kubelets that are each for the node that asks.

    Raises:
        _Failed: some are not; they are named, and stay as they are.
    """
    found = _call(rack.control_planes[0], "kubelet_certs.approve", {}, limit=2 * POLL)
    if found["refused"]:
        name, why = sorted(found["refused"].items())[0]
        more = f" (and {len(found['refused']) - 1} more)" if len(found["refused"]) > 1 else ""
        raise _Failed(f"the request {name} is not approved: {why}{more}")


def _stale_routes(rack: Any, members: list[str]) -> list[str]:
    """Return the members whose routes to the other nodes' pods are not what they should be."""
    if (rack.pillar.get("kubernetes") or {}).get("cni") != "routed":
        return []
    nodes = _known_cluster().get("nodes", {})
    stale = []
    for name, returned, code in _asked(members, "routed_cni.digest"):
        if code or returned != __utils__["routes.digest"](nodes, name):
            stale.append(name)
    return stale


def _export_share(rack: Any) -> None:
    """Have the storage node export the folders of nodes that came since its last highstate."""
    keys = _keys()
    for node in rack.with_role("storage"):
        if keys.get(node) != "accepted":
            continue
        for _, current, code in _asked([node], "nfs.current", limit=2 * POLL):
            if not code and not current:
                _apply(node, "nfs.server")


def _bring_services(rack: Any) -> None:
    """Have the control plane bring the services that the pillar wants and the cluster has not.

    So too when nodes came or went that the metrics' collector is to measure.
    Nobody waits for their pods: those come by themselves, and nodes that join wait for this to end.
    What is there may have changed since: that is found by `drift.check` and set right by a highstate.
    """
    sections = rack.pillar.get("services") or {}
    wanted = {name for name, section in sections.items() if section.get("enabled")}
    control_plane = rack.control_planes[0]
    if not wanted:
        return
    missing = wanted - set(_call(control_plane, "manifests.services", {}, API_LIMIT))
    if missing or ("metrics" in wanted and _collector_is_stale(control_plane)):
        _apply(control_plane, "services", {"manifests_wait": False}, SERVICES_LIMIT)


def _collector_is_stale(control_plane: str) -> bool:
    """Say whether the collector measures other nodes than the rack has; not so if nobody answers."""
    asked = _asked([control_plane], "metrics.current", limit=2 * POLL)
    return any(not code and not current for _, current, code in asked)


def _revoke(control_plane: str, node: str) -> Any:
    return _call(control_plane, "kubeadm.ticket_revoke", {"node": node}, limit=2 * POLL)


def _public_key(node: str) -> str:
    """Return the public key that the master accepted for a minion, as PEM text."""
    if node not in _valid([node]):
        raise _Failed(f"{node!a} is no plain host name")
    path = Path(__opts__["pki_dir"]) / "minions" / node
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise _Failed(f"the key of {node} is not accepted") from None


def _hand_over_kubeconfig(rack: Any) -> None:
    """Give the master's own minion the admin's kubeconfig, when it has none of this cluster."""
    node, control_plane = rack.master_id, rack.control_planes[0]
    expected = _known_cluster().get("ca_hash")
    if not expected or _keys().get(node) != "accepted":
        return
    for _, found, code in _asked([node], "kubeadm.ca_hash", {"path": ADMIN_KUBECONFIG}):
        if not code and found == expected:
            return
    arguments = {"pub": _public_key(node), "node": node}
    sealed = _call(control_plane, "kubeadm.admin_kubeconfig", arguments, limit=2 * POLL)
    _apply(node, "kubeconfig", {"kubeadm_kubeconfig": sealed})


# --- stages of orch.join ---------------------------------------------------------------------------


def _staged(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a stage; a failure becomes its return value, and the orchestration stops there."""
    try:
        return {"ok": True, **work()}
    except _Refused as exc:
        reason = _outcome.plain(exc)
    except _Failed as exc:
        reason = str(exc)
    __context__["retcode"] = 1
    return {"ok": False, "reason": reason}


def sync(node: str) -> dict[str, Any]:
    """Bring one node's copy of our modules up to date: the first stage of ``orch.move``.

    A node that has them all is left alone, which costs one short question instead of some seconds.
    Otherwise the kinds that there are, in one job: ``saltutil.sync_all`` asks the master for
    eighteen, which takes two to three times as long.

    node
        Its id.

    Returns ``{"ok": True, "changed": [...]}`` or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.sync pi-07
    """
    return _staged(lambda: {"changed": _sync(node)})


def _sync(node: str) -> list[str]:
    return [] if _asked_with_our_modules(node, {}) is not None else _fetch_modules(node)


def _fetch_modules(node: str) -> list[str]:
    """Have one node fetch our modules; return those that it had not."""
    for _, returned, code in _asked([node], {kind: [] for kind in _minions.SYNC}, poll=POLL):
        if code or not isinstance(returned, dict):
            raise _Failed(_outcome.answer(returned))
        return sorted(name for kind in returned.values() for name in kind)
    raise _Failed(_outcome.NO_ANSWER)


def _asked_with_our_modules(
    node: str, functions: Mapping[str, list[Any]]
) -> Mapping[str, Any] | None:
    """Call functions on a node that has all our modules; None if it lacks some, or is silent.

    A node that has none of them is told so by a list of what it has. Asked for a function that is not
    there, a minion loads every module of Salt in search of it: a second of a PC's processor.
    """
    for _, has, _code in _asked([node], "saltutil.list_extmods", poll=POLL):
        if not isinstance(has, dict) or "node" not in (has.get("modules") or ()):
            return None
        for _, said, _code in _asked([node], {"node.modules": [], **functions}, poll=POLL):
            shipped = _minions.shipped_modules(__opts__)
            if isinstance(said, dict) and said.get("node.modules") == shipped:
                return said
    return None


def preflight(node: str, role: str) -> dict[str, Any]:
    """Have one node judge whether it can be a Kubernetes node: the first stage of ``orch.join``.

    With its copy of our modules brought up to date: a node that has them all, as most have, tells so
    and judges in the same answer.

    node
        Its id.
    role
        ``control_plane`` or ``worker``.

    Returns ``{"ok": True}`` or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.preflight pi-07 worker
    """

    def ask() -> dict[str, Any]:
        said = _asked_with_our_modules(node, {"node.preflight": [role]})
        if said is not None:
            return _judged(said.get("node.preflight"))
        _fetch_modules(node)
        _call(node, "node.preflight", {"role": role}, limit=2 * POLL)
        return {}

    return _staged(ask)


def _judged(verdict: Any) -> dict[str, Any]:
    """Raise _Failed with the reasons of a node that is not fit."""
    if not isinstance(verdict, dict) or not verdict.get("ok"):
        raise _Failed(_outcome.answer(verdict))
    return {}


def states(node: str, drained: bool = False) -> dict[str, Any]:
    """Bring one node to its highstate: a stage of ``orch.join`` and of ``orch.move``.

    node
        Its id.
    drained
        Whether the node's pods are elsewhere, so that its container data may move.

    Returns ``{"ok": True}`` or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.states pi-07
    """

    def apply() -> dict[str, Any]:
        limit = MOVE_LIMIT if drained else LIMIT
        _apply(node, None, {"container_storage_drained": True} if drained else None, limit)
        return {}

    return _staged(apply)


def join(node: str) -> dict[str, Any]:
    """Bring one fit node to its highstate and with it into the cluster: a stage of ``orch.join``.

    A ticket (a bootstrap token sealed to the node's own key) is made on the control plane and carried
    to the node as a pillar override; :func:`ready` makes it void, this does when the join failed. A
    node that is in the cluster already gets none.

    node
        Its id.

    Returns ``{"ok": True, "joined": bool}``, joined telling whether it was done now, or
    ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.join pi-07
    """
    return _staged(lambda: {"joined": _join(node)})


def _join(node: str) -> bool:
    rack = _rack()
    # The file is as old as the look that started this; asking again would cost a second or two.
    if node in _known_cluster().get("nodes", {}) and _is_member(node):
        _apply(node, None)
        return False
    ttl = (rack.pillar.get("kubernetes") or {}).get("ticket_ttl", 600)
    try:
        began = time.monotonic()
        try:
            # All in one run, with the pod network: kubelet looks for it every few seconds.
            _apply(node, None, _ticket(node, rack.control_planes[0], ttl))
        except _Failed:
            if time.monotonic() - began < ttl:
                raise
            # The packages took longer than the ticket lives; they are there now.
            _apply(node, None, _ticket(node, rack.control_planes[0], ttl))
    except BaseException:
        _void(node, rack.control_planes[0])
        raise
    return True


def _ticket(node: str, control_plane: str, ttl: float) -> dict[str, str]:
    """Return the pillar override with which a node may join once."""
    wanted = {"node": node, "pub": _public_key(node), "ttl": ttl}
    made = _call(control_plane, "kubeadm.ticket_create", wanted, limit=2 * POLL)
    return {"kubeadm_ticket": made["ticket"]}


def _void(node: str, control_plane: str) -> None:
    """Make all tickets of a node void, or say in the log that it could not be done."""
    try:
        _revoke(control_plane, node)
    except _Failed as exc:  # it expires by itself; the next attempt deletes it, too
        log.warning("the join token of %s could not be deleted: %s", node, exc)


def _is_member(node: str) -> bool:
    """Say whether a node's own files make it a member of this cluster, with nothing left to do."""
    facts = _call(node, "kubeadm.facts", {})
    ours = facts.get("ca_hash") == _known_cluster().get("ca_hash")
    return bool(facts.get("joined") and ours and not facts.get("problems"))


def ready(node: str) -> dict[str, Any]:
    """Wait until one member is Ready: the last stage of ``orch.join``.

    The ticket that it joined with is made void meanwhile, also one that an attempt left which was cut
    off.

    node
        Its id.

    Returns ``{"ok": True, "seconds": float}`` or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.ready pi-07
    """
    return _staged(lambda: {"seconds": _wait_ready(node)})


def _wait_ready(node: str) -> float:
    rack = _rack()
    patience = int(_settings(rack)["ready_timeout"])
    _void(node, rack.control_planes[0])
    wanted = {"node": node, "timeout": patience}
    said = _call(rack.control_planes[0], "kubeadm.wait_ready", wanted, limit=patience + 2 * POLL)
    return float(said["seconds"])


def forget(node: str) -> dict[str, Any]:
    """Take a node that is gone out of the cluster: its node object and its join tickets.

    Its key is another matter, see ``enrol.revoke`` and ``enrol.reissue``, which call this.

    node
        Its id.

    Returns ``{"ok": True, "deleted": bool, "tickets": [...]}``, deleted telling whether there was a
    node object, or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.forget pi-07
    """
    return _staged(lambda: _forget(node))


def _forget(node: str) -> dict[str, Any]:
    if not _valid([node]):
        raise _Failed(f"{node!a} is no plain host name")
    rack = _rack()
    control_plane = rack.control_planes[0]
    if node == control_plane:
        raise _Failed(f"{node} is the control plane: without it there is no cluster to clean")
    if not _known_cluster():
        return {"deleted": False, "tickets": []}  # no cluster yet
    revoked = _revoke(control_plane, node)
    deleted = _call(control_plane, "kubeadm.delete_node", {"node": node}, limit=2 * POLL)
    wake()
    return {"deleted": bool(deleted), "tickets": list(revoked["deleted"])}


def reboot(node: str) -> dict[str, Any]:
    """Reboot one node and wait until it answers again: a stage of ``orch.reboot``.

    node
        Its id. Its pods must be elsewhere (:func:`drain`).

    Returns ``{"ok": True, "reasons": [...]}``, the reasons empty for a node that did not want it any
    more and was left alone, or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.reboot pi-07
    """
    return _staged(lambda: {"reasons": _reboot(node)})


def _reboot(node: str) -> list[str]:
    reasons = list(_call(node, "node.reboot_wanted", {}, limit=2 * POLL))
    before = dict(_answering([node])).get(node)
    if not reasons:
        return []
    if not before:
        raise _Failed(f"{node} does not say when it was started, so its reboot could not be seen")
    _call(node, "node.reboot", {}, limit=2 * POLL)
    end = time.monotonic() + REBOOT_LIMIT
    while time.monotonic() < end:
        if dict(_answering([node])).get(node) not in (None, "", before):
            return reasons
        time.sleep(PAUSE_BETWEEN_LOOKS)
    raise _Failed(f"{node} did not come back within {REBOOT_LIMIT // 60} minutes of its reboot")


def drain(node: str, why: str = "container data moves") -> dict[str, Any]:
    """Have one node's pods started elsewhere: the first stage of ``orch.move`` that others notice.

    The reconcile that sees the node Ready with nobody working on it lets pods onto it again, however
    the work has ended.

    node
        Its id.
    why
        What for; kept on the node while it takes no pods.

    Returns ``{"ok": True, "left": [...]}`` with the pods that stay (nothing would start them
    elsewhere), or ``{"ok": False, "reason": "one plain line"}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.drain pi-07
    """
    return _staged(lambda: _drain(node, why))


def _drain(node: str, why: str) -> dict[str, Any]:
    rack = _rack()
    patience = int(_settings(rack)["drain_timeout"])
    wanted = {"node": node, "why": why, "timeout": patience}
    said = _call(rack.control_planes[0], "kubeadm.drain", wanted, limit=patience + 4 * POLL)
    return {"left": said["left"]}


# What the files of salt/orch may name
STAGES = (sync, preflight, states, join, ready, drain, reboot)


# --- for people ------------------------------------------------------------------------------------


def status() -> Any:
    """Tell how every node stands: role, key, in the cluster or not, Ready or not, and why not.

    Asks the control plane once, for a few seconds at most; when it does not answer, says so and
    shows what was known last.

    On the command line a table; with ``--out=json`` (or any other ``--out``), and to other programs,
    the document ``{"nodes": [{"id", "role", "key", "joined", "ready", "version", "ip", "reason",
    "attempts", "last", "next", "stage", "seconds", "move"}, ...], "problems": [...], "working": bool}``.
    ``key`` is accepted, pending, denied, rejected or none; joined and ready are null where they do
    not apply or are not known; last and next are seconds since the epoch; move is null, or how far the
    node's container data is on its way (``container_storage.status``).

    CLI Example:

    .. code-block:: bash

        salt-run rack.status
        salt-run rack.status --out=json
    """
    document = _status()
    for_a_person = __opts__.get("fun") == "rack.status" and not __opts__.get("output")
    return _rackplan.table(document) if for_a_person else document


def _status() -> dict[str, Any]:
    keys = _keys()
    refused = set(keys) - set(_valid(keys))
    roles: dict[str, list[str]] = {}
    problems: list[str] = []
    nodes, control_plane = None, ""
    try:
        rack = _rack()
    except _Refused as exc:
        problems = exc.problems
    else:
        roles = {name: rack.roles(name) for name in {*rack.nodes, *keys} - refused}
        control_plane = rack.control_planes[0]
        if keys.get(control_plane) == "accepted":
            nodes, _ = _cluster_now(control_plane, STATUS_ANSWER, STATUS_LIMIT)
    with _lock("reconcile.lock", wait=False) as idle:
        working = not idle
    book = _book()
    rows = _rackplan.rows(
        keys=keys,
        roles=roles,
        refused=refused,
        nodes=nodes,
        book=book,
        moves=_moves(book) if working else {},
        last_known=_known_cluster().get("nodes", {}),
        control_plane=control_plane,
        working=working,
        now=time.time(),
    )
    return {"nodes": rows, "problems": problems, "working": working}


def _moves(book: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far the nodes are whose container data is being moved."""
    busy = [
        name for name, said in book.items() if said.get("running") and said.get("work") == "move"
    ]
    asked = _asked(busy, "container_storage.status", poll=STATUS_ANSWER, limit=STATUS_LIMIT)
    told = {name: said.get("move") for name, said, code in asked if not code}
    return {name: told.get(name) or {} for name in busy}


def validate() -> dict[str, Any]:
    """Check what the pillar says of the rack, before anything is done with it.

    Returns ``{"ok": True, "problems": []}``, or ``{"ok": False, "problems": [...], "retcode": 1}``
    with a sentence for each problem; the command's exit code is 1 then.

    CLI Example:

    .. code-block:: bash

        salt-run rack.validate
    """
    try:
        _rack()
    except _Refused as exc:
        return {"ok": False, "problems": exc.problems, "retcode": 1}
    return {"ok": True, "problems": []}


def explain(key: str = "") -> Any:
    """Tell what a setting of the pillar means, what it may be, its default, and which files read it.

    key
        For instance ``docker.log_max_size``, or a group such as ``docker``; none: the groups. What is
        below a name of your own goes with or without it: ``nodes.<id>.ip``, ``nodes.pi-01.ip``.

    On the command line text; with ``--out=json`` (or any other ``--out``), and to other programs,
    ``{"ok": True, "settings": [{"key", "meaning", "kind", "allowed", "default", "required", "used"},
    ...]}``, the setting first and then what is directly in it. For a key that there is not,
    ``{"ok": False, "reason": ..., "similar": [...], "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.explain docker.log_max_size
        salt-run rack.explain
    """
    settings = __utils__["rackspec.settings"]()
    entry = _settings_help.find(settings, key)
    if key and entry is None:
        near = _settings_help.similar(settings, key)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        reason = f"there is no setting {key!a}; {meant}`salt-run rack.explain` lists them"
        return {"ok": False, "reason": reason, "similar": near, "retcode": 1}
    inside = _settings_help.below(settings, entry["key"] if entry else "")
    if __opts__.get("fun") == "rack.explain" and not __opts__.get("output"):
        if entry:
            return _settings_help.text(settings, entry)
        return "\n".join(_settings_help.listed(inside))
    return {"ok": True, "settings": [*([entry] if entry else []), *inside]}


def authority() -> Any:
    """Show the certificate of the rack's own authority, for browsers and other machines to trust.

    It is public; its key never leaves the cluster. See docs/services/network.md.

    On the command line the certificate as PEM, good for a file; to other programs ``{"ok": True,
    "certificate": text}``. Without one ``{"ok": False, "reason": ..., "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run rack.authority
    """
    try:
        text = _call(_rack().control_planes[0], "rack_ca.certificate", {}, limit=API_LIMIT)
        if not text:
            raise _Failed("the rack has no authority: is services.certificates on, and applied?")
    except (_Refused, _Failed) as exc:
        __context__["retcode"] = 1
        return {"ok": False, "reason": str(exc), "retcode": 1}
    if __opts__.get("fun") == "rack.authority" and not __opts__.get("output"):
        print(str(text).strip(), flush=True)
        # Not a word more on standard output: it may be a file
        return {"outputter": "quiet", "data": True}
    return {"ok": True, "certificate": text}


def dashboard_token(view: bool = False, ttl: int = 3600) -> dict[str, Any] | str:
    """Print a token to log in to the dashboard with, which ends by itself.

    It is printed and not returned: what a runner returns goes to everybody on the event bus and stays in
    the job cache. Nothing keeps it, and it cannot be called back; without ``services.dashboard`` its account
    is gone, and with it the token.

    view
        True: may look at all but Secrets, and change nothing. False: may do everything.
    ttl
        Seconds for which it is good, 600 to 86400.

    Returns ``{"ok": False, "reason": ..., "retcode": 1}`` when there is none, otherwise an empty text.

    CLI Example:

    .. code-block:: bash

        salt-run rack.dashboard_token
        salt-run rack.dashboard_token view=True ttl=28800
    """
    account = "view-user" if view else "admin-user"
    try:
        token = _dashboard_token(account, ttl)
    except (_Failed, CommandExecutionError) as exc:
        __context__["retcode"] = 1
        return {"ok": False, "reason": str(exc), "retcode": 1}
    print(token, flush=True)
    return ""  # of which Salt prints nothing: standard output may be a pipe


def _dashboard_token(account: str, ttl: Any) -> str:
    if __opts__.get("fun") != "rack.dashboard_token" or __opts__.get("async"):
        raise _Failed("only for people: type `salt-run rack.dashboard_token` on the master")
    low, high = TOKEN_TTL
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not low <= ttl <= high:
        raise _Failed(f"ttl: {ttl!a} is no number of seconds from {low} to {high}")
    config = Path(ADMIN_KUBECONFIG)
    if not config.is_file():
        raise _Failed(f"{config} is missing; rack.reconcile brings it when there is a cluster")
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": ttl},
    }
    # By the API itself: `kubectl create token` is not there before 1.24.
    place = f"/api/v1/namespaces/dashboard/serviceaccounts/{account}/token"
    done = __utils__["kube_programs.kubectl"](
        "create", "--raw", place, "-f", "-", kubeconfig=config, stdin=json.dumps(request)
    )
    if done.returncode == 0:
        return str(json.loads(done.stdout)["status"]["token"])
    if any(said in done.stderr for said in ("NotFound", "not found", "being terminated")):
        raise _Failed(
            f"the cluster has no account {account}: is services.dashboard on? `salt '*' state.apply` makes it"
        )
    raise _Failed(__utils__["kube_programs.last_lines"](done.stderr, 2))


def retry(node: str) -> dict[str, Any]:
    """Try a node again now, without waiting for the pause after its failures to end.

    A node that was switched off and on is tried again soon by itself.

    node
        Its id.

    Returns ``{"ok": True, ...}``, or ``{"ok": False, "reason": ..., "retcode": 1}`` for an id that
    the master holds no accepted key of.

    CLI Example:

    .. code-block:: bash

        salt-run rack.retry pi-07
    """
    if not _valid([node]) or _keys().get(node) != "accepted":
        reason = f"the master holds no accepted key of {node!a}; salt-key -L lists them"
        return {"ok": False, "reason": reason, "retcode": 1}

    def change(book: dict[str, dict[str, Any]]) -> None:
        if node in book:
            book[node] = _attempts.retry(book[node])

    _edit_book(change)
    wake()
    return {"ok": True, "comment": f"{node} is tried again at the next look, which was asked for"}
