"""A rack of the tests' own, brought up once by the code that `./rack up` runs, removed whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from lab import lifecycle
from lab.cli import CACHE
from lab.podman import Node
from lab.progress import Progress
from lab.rack import Rack, RackError

NAME = os.environ.get("SALTBERRY_TEST_RACK", "test")
# What starts a reconcile
RECONCILE = ("saltberry-reconcile.path", "saltberry-reconcile.timer")
# SALTBERRY_KEEP_RACK=1 leaves the rack for a look at it, and finds it again next time.
KEEP = os.environ.get("SALTBERRY_KEEP_RACK") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def progress() -> Progress:
    return Progress()


@pytest.fixture(scope="session")
def rack(progress: Progress) -> Iterator[Rack]:
    """nfs1, cp1 and pi-01, Ready."""
    if os.geteuid() != 0:
        pytest.fail("lab tests make privileged containers: run `sudo make test`")
    if not KEEP and (left := Rack.load(NAME)) is not None:
        left.remove()
    try:
        yield lifecycle.up(NAME, CACHE, progress)
    finally:
        made = Rack.load(NAME)
        if made is not None and not KEEP:
            made.remove()


class Lab:
    """What a test does to the rack, in a person's words."""

    def __init__(self, rack: Rack, progress: Progress) -> None:
        self.rack = rack
        self.progress = progress

    @property
    def master(self) -> Node:
        return self.rack.master

    @property
    def control_plane(self) -> Node:
        return self.rack.node("cp1")

    def node(self, name: str) -> Node:
        return self.rack.node(name)

    def plug(self, name: str) -> Node:
        lifecycle.plug(self.rack, name, self.progress)
        return self.rack.node(name)

    def take_away(self, name: str) -> None:
        """A Pi leaves the rack for good: no node object, no key, no container."""
        if name in self.rack.nodes:
            self.rack.discard(name)
        self.kubectl("delete", "node", name, "--ignore-not-found")
        self.master.run("salt-key", "-y", "-d", name, check=False)

    def kubectl(self, *argv: str, check: bool = True) -> str:
        return self.control_plane.run(*lifecycle.KUBECTL, *argv, check=check).stdout

    def salt(self, target: str, *argv: str, check: bool = False) -> dict[str, Any]:
        """`salt -L target …` on the master; returns by minion."""
        done = self.master.run(
            "salt",
            "--out=json",
            "--static",
            "-t",
            "300",
            "-L",
            target,
            *argv,
            check=check,
            timeout=900,
        )
        return json.loads(done.stdout)

    def applied(self, nodes: Iterable[str], *argv: str) -> dict[str, dict[str, Any]]:
        """`state.apply` on these nodes: the states that changed something or failed, by node and id."""
        names = list(nodes)
        done = self.salt(",".join(names), "state.apply", *argv, "queue=True")
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            assert isinstance(done[name], dict), done[name]
            found[name] = {
                each["__id__"]: each
                for each in done[name].values()
                if each["changes"] or each["result"] is not True
            }
        return found

    def answers(self, name: str) -> bool:
        """Whether the minion is there now."""
        ping = ("salt", "--out=json", "--static", "-t", "5", "-L", name, "test.ping")
        return f'"{name}": true' in self.master.run(*ping, check=False, timeout=120).stdout

    def run(self, *argv: str) -> Any:
        """`salt-run …` on the master; its return."""
        done = self.master.run("salt-run", "--out=json", *argv, check=False, timeout=900)
        return json.loads(done.stdout)

    def status(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.rack.status() if entry["id"] == name)

    def wait_ready(self, name: str) -> None:
        lifecycle.wait_ready(self.rack, name, self.progress)

    def wait_idle(self) -> None:
        """Until no reconcile runs."""
        ask = ("systemctl", "is-active", "saltberry-reconcile.service")
        idle = ("inactive", "failed")
        self.wait(
            "reconcile idle",
            lambda: self.master.run(*ask, check=False).stdout.strip() in idle,
            300,
        )

    @contextlib.contextmanager
    def reconcile_by_hand(self) -> Iterator[None]:
        """No event and no timer starts a reconcile meanwhile, and none runs that was begun before."""
        self.master.run("systemctl", "stop", *RECONCILE)
        try:
            self.wait_idle()
            yield
        finally:
            self.master.run("systemctl", "start", *RECONCILE, check=False)

    def is_ready(self, name: str) -> bool:
        return lifecycle.is_ready(self.rack, name)

    def wait(
        self, what: str, ask: Callable[[], Any], seconds: float = 120, every: float = 0.3
    ) -> Any:
        """Ask until the answer is true; fail with `what` when it never is."""
        deadline = time.monotonic() + seconds
        answer = None
        while time.monotonic() < deadline:
            answer = ask()
            if answer:
                return answer
            time.sleep(every)
        raise AssertionError(f"not within {seconds:.0f} s: {what} (last answer: {answer!r})")


@pytest.fixture(scope="session")
def lab(rack: Rack, progress: Progress) -> Lab:
    return Lab(rack, progress)


@pytest.fixture
def pi(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a Pi that the test may plug in, break and lose."""
    name = f"pi-{abs(hash(request.node.name)) % 800 + 100}"
    try:
        yield name
    finally:
        with contextlib.suppress(RackError):
            lab.take_away(name)
