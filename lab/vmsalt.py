"""Salt on virtual machines: the checkout's states and pillar, applied by `salt-call --local`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from lab.vm import VM, VMError
from lab.vmimage import REPO

ADDRESSES = {"nfs1": 10, "pi-01": 21, "pi-02": 22}
# What the role worker does to the engines, in its order; without Kubernetes.
ENGINES = (
    "nfs.client", "container_storage.mounted", "containerd.installed", "docker.configured",
    "docker.installed", "containerd.configured", "container_storage", "containerd", "docker",
)  # fmt: skip
# The shipped minion settings, with the checkout on this machine in place of a master.
LOCAL = f"""
file_client: local
file_roots: {{base: [{REPO}/salt]}}
pillar_roots: {{base: [{REPO}/pillar]}}
pillar_dirs: [{REPO}/_pillar]
ext_pillar: [{{saltberry: {{}}}}]
pillar_source_merging_strategy: recurse
module_dirs: [{REPO}/_modules]
states_dirs: [{REPO}/_states]
utils_dirs: [{REPO}/_utils]
"""


class Pi:
    """One machine, and the Salt on it."""

    def __init__(self, machine: VM) -> None:
        self.vm = machine
        self.sh = machine.sh

    def said(self, script: str, timeout: float = 300) -> str:
        """What lines of bash print, without the last line's end; raises when they fail."""
        return self.sh(script, timeout=timeout).stdout.rstrip("\n")

    def configure(self, nodes: dict[str, Any], **pillar: Any) -> None:
        """The minion's settings, and the rack's pillar."""
        self.vm.write("/etc/salt/minion.d/zz-local.conf", LOCAL)
        own: dict[str, dict[str, Any]] = {
            name: {"ip": self.vm.net.address(number)} for name, number in ADDRESSES.items()
        }
        own["nfs1"]["roles"] = ["storage", "master"]
        own["cp1"] = {"ip": self.vm.net.address(11), "roles": ["control_plane"]}
        for name, extra in nodes.items():
            own[name].update(extra)
        rack = {"rack": {"network": f"{self.vm.net.subnet}.0/24"}, "nodes": own, **pillar}
        self.vm.write(f"{REPO}/pillar/rack.sls", json.dumps(rack))

    def call(self, *argv: str, timeout: float = 600) -> Any:
        """`salt-call --local …`; its return. VMError when it returned nothing."""
        done = self.vm.run(
            "salt-call", "--local", "--out=json", "--log-level=error", *argv,
            check=False, timeout=timeout,
        )  # fmt: skip
        try:
            return json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            text = f"{self.vm.name}: salt-call {' '.join(argv)}: {done.stdout}{done.stderr}"
            raise VMError(text) from None

    def apply(self, *sls: str, test: bool = False, timeout: float = 900) -> Applied:
        """`state.apply` of these SLS files. VMError when they do not compile."""
        returned = self.call("state.apply", ",".join(sls), f"test={test}", timeout=timeout)
        if not isinstance(returned, dict):
            raise VMError(f"{self.vm.name}: {', '.join(sls)} do not compile: {returned}")
        return Applied(self.vm.name, list(returned.values()))

    def wait(self, what: str, script: str, seconds: float = 180) -> str:
        """Run bash again and again until it succeeds; what it said then.

        Raises:
            VMError: not within ``seconds``; with ``what``, the last answer and the journal's end.
        """
        deadline = time.monotonic() + seconds
        while True:
            done = self.sh(script, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
            if time.monotonic() > deadline:
                log = self.sh(
                    "journalctl -b -n 40 --no-pager -p notice; systemctl list-jobs", check=False
                )
                raise VMError(
                    f"{self.vm.name}: not within {seconds:.0f} s: {what}: {done.stdout}{done.stderr}"
                    f"\n{log.stdout}"
                )
            time.sleep(1)


@dataclass
class Applied:
    """What a `state.apply` returned."""

    node: str
    states: list[dict[str, Any]]

    def __str__(self) -> str:
        lines = [
            f"{state['__sls__']}: {state['__id__']}: {state['result']}: {state['comment']}"
            for state in self.states
        ]
        return "\n".join([f"{self.node}:", *lines])

    def state(self, state_id: str) -> dict[str, Any]:
        """The one state with this id."""
        (found,) = [state for state in self.states if state["__id__"] == state_id]
        return found

    @property
    def failed(self) -> list[str]:
        """Id and comment of each state that failed."""
        return [f"{s['__id__']}: {s['comment']}" for s in self.states if s["result"] is False]

    @property
    def changed(self) -> dict[str, Any]:
        """The changes of each state that made some, by id."""
        return {s["__id__"]: s["changes"] for s in self.states if s["changes"]}

    def good(self) -> Applied:
        """Itself; VMError, with every state's comment, when one failed."""
        if self.failed:
            raise VMError(str(self))
        return self
