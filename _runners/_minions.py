"""Ask minions, and know which there are and what they should have.

Needs Salt's client and the master's options, and nothing of a runner's: several runners share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# Seconds. A node that does not answer a look within ANSWER is asked once more whether it is still
# at it, for as long again. A long job is asked after every POLL seconds, for GATHER seconds: a node
# that died is noticed within about a minute, one that is only slow may take as long as LIMIT.
ANSWER = 10
POLL = 60
GATHER = 10
# The whole way from a blank node to Ready, with its packages fetched by a slow line to a slow card.
LIMIT = 3600

# The kinds of modules that this project has
SYNC = ["saltutil.sync_utils", "saltutil.sync_modules", "saltutil.sync_states"]
# What Salt calls its lists of keys. An id may be in two of them (a second key for an accepted id is
# denied): the later one counts.
KEY_LISTS = {
    "minions_rejected": "rejected",
    "minions_denied": "denied",
    "minions_pre": "pending",
    "minions": "accepted",
}


def keys(opts: Mapping[str, Any]) -> dict[str, str]:
    """Return the state of every key the master holds: accepted, pending, denied or rejected."""
    import salt.key

    states: dict[str, str] = {}
    with salt.key.get_key(dict(opts)) as held:
        listed = held.list_keys()
    for kind, state in KEY_LISTS.items():
        states.update(dict.fromkeys(listed.get(kind, ()), state))
    return states


def shipped_modules(opts: Mapping[str, Any]) -> dict[str, str]:
    """Return ``{"modules/node.py": SHA-256}`` of what this master serves, as ``node.modules`` does."""
    served = [Path(root) for root in opts["file_roots"].get("base", ())]
    kinds = [name.removeprefix("saltutil.sync_") for name in SYNC]
    # Of two files with one name Salt serves that of the first root, so it comes last here.
    return {
        f"{kind}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for root in reversed(served)
        for kind in kinds
        for path in (root / f"_{kind}").glob("*.py")
    }


class _Kept:
    """The client of a process that asks much: to make one takes longer than to ask.

    A fork must not use its parent's, and a master that was started again takes no words of an old one.
    """

    def __init__(self, opts: Mapping[str, Any]) -> None:
        self.opts = dict(opts)
        self.key, self.made = self._key(), None

    def _key(self) -> list[tuple[str, int]]:
        """Tell one start of the master from the next: it writes new keys for its own users each time."""
        found = Path(self.opts["cachedir"]).glob(".*_key")
        return sorted((path.name, path.stat().st_mtime_ns) for path in found)

    def client(self) -> Any:
        import salt.client

        if self.made is None or self.key != self._key():
            self.close()
            self.key = self._key()
            self.made = salt.client.get_local_client(mopts=dict(self.opts))
        return self.made

    def close(self) -> None:
        if self.made is not None:
            self.made.destroy()
        self.made = None


_kept: dict[int, _Kept] = {}


@contextlib.contextmanager
def one_client(opts: Mapping[str, Any]) -> Iterator[None]:
    """Have all questions of this process asked by one client, see :class:`_Kept`."""
    mine = os.getpid()
    if mine in _kept:
        yield
        return
    _kept[mine] = _Kept(opts)
    try:
        yield
    finally:
        _kept.pop(mine).close()


@contextlib.contextmanager
def _client(opts: Mapping[str, Any]) -> Iterator[Any]:
    """Give the client of this process, or one for this question."""
    import salt.client

    if os.getpid() in _kept:
        yield _kept[os.getpid()].client()
        return
    made = salt.client.get_local_client(mopts=dict(opts))
    try:
        yield made
    finally:
        made.destroy()


def asked(
    opts: Mapping[str, Any],
    nodes: Iterable[str],
    function: str | Mapping[str, list[Any]],
    kwargs: Mapping[str, Any] | None = None,
    *,
    poll: float = ANSWER,
    limit: float = LIMIT,
) -> Iterator[tuple[str, Any, int]]:
    """Call a function on minions and yield ``(id, return, exit code)`` as the answers come.

    The answers are read from the job cache, where only those get whose signature the master has
    verified. On the event bus, where Salt's own client looks for them, any minion may speak for any
    other: it knows the job's id, since publications reach all of them.

    Args:
        opts: the master's configuration.
        nodes: ids, which must be host names: they are a list to Salt, never a pattern.
        function: name of an execution function, or of several with their positional arguments.
        kwargs: keyword arguments (positional ones would be searched for ``name=value``).
        poll: seconds after which a minion that has not answered is asked whether it still runs the
            job; one that says so may go on, the others are given up.
        limit: seconds after which nobody is waited for any more.
    """
    import salt.exceptions

    targets = list(nodes)
    if not targets:
        return
    arguments: dict[str, Any] = {"kwarg": dict(kwargs or {})}
    if not isinstance(function, str):
        arguments = {"arg": list(function.values())}
    names = function if isinstance(function, str) else list(function)
    try:
        with _client(opts) as client:
            # Salt prints what it thinks of a target; that must not get into a runner's output.
            with contextlib.redirect_stdout(sys.stderr):
                job = client.run_job(targets, names, tgt_type="list", timeout=poll, **arguments)
            if job:
                look = partial(client.returners[f"{opts['master_job_cache']}.get_jid"], job["jid"])
                waiting = set(job["minions"]) & set(targets)
                still = partial(_still_at_it, opts, job["jid"], poll=poll)
                yield from _returns(look, still, waiting, poll, time.monotonic() + limit)
    except salt.exceptions.SaltException as exc:
        log.warning("the salt-master does not take jobs: %s", exc)


def _returns(
    look: Callable[[], dict[str, dict[str, Any]]],
    still: Callable[[Iterable[str]], set[str]],
    waiting: set[str],
    poll: float,
    deadline: float,
) -> Iterator[tuple[str, Any, int]]:
    """Yield the returns of a job until nobody of ``waiting`` is left who may still give one."""
    began = time.monotonic()
    ask_again = began + poll
    given_up: set[str] = set()
    while waiting:
        for node, said in look().items():
            if node in waiting and "return" in said:
                waiting.discard(node)
                yield node, said["return"], _exit_code(said)
        # Those who were done when they were asked have been looked at once more by now.
        waiting -= given_up
        now = time.monotonic()
        if now > deadline:
            return
        if waiting and now > ask_again:
            given_up = waiting - still(waiting)
            ask_again = time.monotonic() + poll
        else:
            # Looking costs a Pi as much as it spares: a long job may be noticed a little later.
            time.sleep(min(0.3, 0.03 + (now - began) / 30))


def _still_at_it(
    opts: Mapping[str, Any], jid: str, nodes: Iterable[str], *, poll: float
) -> set[str]:
    """Return those nodes that say they still run a job."""
    patience = min(poll, GATHER)
    wanted = {"jid": jid}
    said = asked(opts, nodes, "saltutil.find_job", wanted, poll=2 * patience, limit=patience)
    return {node for node, running, _code in said if running}


def _exit_code(answer: Mapping[str, Any]) -> int:
    code = answer.get("retcode", 0)
    return max(code.values(), default=0) if isinstance(code, dict) else int(code or 0)
