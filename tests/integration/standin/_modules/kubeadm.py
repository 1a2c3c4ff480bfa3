"""Stands in for _modules/kubeadm.py where no Kubernetes runs: the cluster is a folder of files.

Same names, arguments and returns as the real module, for what the runners call. Every call leaves a
line in ``calls``. Knobs, files of the folder: ``api-down``; ``join-fails-ID``; ``slow-ID`` (seconds).
"""

import json
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError

STANDIN = Path("@STANDIN@")


def _note(*words):
    with (STANDIN / "calls").open("a", encoding="utf-8") as stream:
        stream.write(" ".join(map(str, words)) + "\n")


def _id():
    return __opts__["id"]


def _path(node):
    return STANDIN / "nodes" / f"{node}.json"


def _write(node, known):
    """Replace what is known of a node; others read it meanwhile."""
    new = STANDIN / f"new-{node}"
    new.write_text(json.dumps(known), encoding="utf-8")
    new.replace(_path(node))


def _register(control_plane=False):
    number = 1 + len(list((STANDIN / "nodes").iterdir()))
    known = {
        "ready": True,
        "reason": "",
        "version": "v1.34.2",
        "ip": f"192.168.1.{10 + number}",
        "pod_cidr": f"10.244.{number}.0/24",
        "control_plane": control_plane,
    }
    if not _path(_id()).exists():
        _write(_id(), known)


def nodes():
    if (STANDIN / "api-down").exists() or not _path("cp1").exists():
        raise CommandExecutionError("the API server does not answer")
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((STANDIN / "nodes").iterdir())
    }


def facts():
    joined = _path(_id()).exists()
    return {"joined": joined, "ca_hash": "sha256:5a17" if joined else None, "problems": []}


def init():
    if not _path(_id()).exists():
        _note("init", _id())
        _register(control_plane=True)
    return True


def ticket_create(node, pub, ttl=600):
    assert pub.startswith("-----BEGIN PUBLIC KEY-----")
    (STANDIN / "tokens" / node).touch()
    _note("ticket_create", node)
    return {"ticket": f"sealed to {node}", "token_id": "abcdef"}


def ticket_revoke(node=None, token_id=None):
    (STANDIN / "tokens" / node).unlink(missing_ok=True)
    _note("ticket_revoke", node)
    return {"deleted": []}


def _take_time(seconds):
    """Sleep, unless the node loses power meanwhile, which ends whatever ran on it."""
    boot = (STANDIN / "boot").read_text()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)
        if not (STANDIN / "boot").exists() or (STANDIN / "boot").read_text() != boot:
            raise CommandExecutionError("switched off")


def join():
    _note("join", _id())
    if __pillar__.get("kubeadm_ticket") != f"sealed to {_id()}":
        raise CommandExecutionError("no ticket")
    slow = STANDIN / f"slow-{_id()}"
    if slow.exists():
        _take_time(float(slow.read_text()))
    if (STANDIN / f"join-fails-{_id()}").exists():
        raise CommandExecutionError("the API server has another CA\nand says more")
    _register()
    _note("joined", _id())
    return True


def wait_ready(node, timeout=180):
    _note("wait_ready", node)
    known = nodes()[node]
    known.update(ready=True, reason="")
    _write(node, known)
    return {"ready": True, "seconds": 0.0, "reason": ""}


def _mark(node, **facts):
    _write(node, {**nodes()[node], **facts})


def drain(node, why, timeout=300):
    _note("drain", node)
    _mark(node, schedulable=False, drained_for=why)
    return {"drained": True, "left": []}


def uncordon(node):
    _note("uncordon", node)
    _mark(node, schedulable=True, drained_for="")
    return True


def ca_hash(path="/etc/kubernetes/pki/ca.crt"):
    raise CommandExecutionError(f"{path} cannot be read")
