"""A rack with everything that may be on the page, some of it hostile."""

from __future__ import annotations

from typing import Any

NOW = 1795467000.0
HOUR = 3600.0
SCRIPT = "<script>document.title='pwned'</script>"
NASTY = f"\"'>{SCRIPT}<img src=x onerror=\"document.title='pwned'\"> &amp; {{{{ 1 + 1 }}}} \u202egnp.exe"

UNDEFINED = "Jinja variable 'dict object' has no attribute 'ips'"
DIFF = [
    "@@ -1,4 +1,4 @@", " {",
    '-  "log-opts": {"max-size": "500m"},', '+  "log-opts": {"max-size": "10m", "max-file": "3"},',
    '   "storage-driver": "overlay2"', " }",
]  # fmt: skip


def drifted(name: str, lines: list[str], /, **more: Any) -> dict[str, Any]:
    return {"id": name, "sls": "x", "function": "file.managed", "name": "/etc/docker/daemon.json",
            "comment": "/etc/docker/daemon.json would be changed", "changes": {}, "failed": False,
            "follows": [], "lines": lines, **more}  # fmt: skip


def row(status: str = "clean", /, **more: Any) -> dict[str, Any]:
    storage = {
        "backend": "nfs-image",
        "path": "/srv/containers",
        "free": 41_200_000_000,
        "size": 64_000_000_000,
    }
    vitals = {"model": "Raspberry Pi 4 Model B Rev 1.4", "temperature": 51.5, "throttled": [],
              "uptime": 777_600, "storage": storage}  # fmt: skip
    return {"status": status, "reason": "", "states": 61, "seconds": 3.1, "drift": [], "more": 0,
            "vitals": vitals, "checked": NOW - 260, "seen": NOW - 260, "roles": [], **more}  # fmt: skip


def member(name: str, role: str = "worker", /, **more: Any) -> dict[str, Any]:
    return {"id": name, "role": role, "key": "accepted", "joined": True, "ready": True,
            "version": "v1.34.2", "ip": "192.168.1.21", "reason": "", **more}  # fmt: skip


def checks() -> list[dict[str, Any]]:
    """Two days of checks: quiet, a drift that is mended, a gap, a node away."""
    entries: list[dict[str, Any]] = []
    for hour in range(48):
        entry: dict[str, Any] = {"kind": "check", "began": NOW - (48 - hour) * HOUR, "seconds": 11.0,
                                 "exit": 0, "tgt": None, "counts": {"clean": 6}, "drift": {}}  # fmt: skip
        if 9 <= hour < 13:
            entry |= {
                "exit": 1,
                "counts": {"clean": 5, "drifted": 1},
                "drift": {"pi-02": ["a", "b", "c"][: hour - 8]},
            }
        if hour in (27, 28, 47):
            entry |= {"exit": 2, "counts": {"clean": 4, "drifted": 1, "unreachable": 1}}
        if hour == 33:
            entry |= {
                "kind": "missed",
                "exit": None,
                "seconds": None,
                "reason": "a check did not happen",
            }
        if hour == 47:
            entry |= {"drift": {"pi-02": ["docker-config", "base-sysctl"]}}
        entries.append(
            {
                **entry,
                "told": "5 clean, 1 drifted (pi-02: docker-config)" if entry["exit"] else "6 clean",
            }
        )
    return entries


def facts(**changed: Any) -> dict[str, Any]:
    hot = {
        **row()["vitals"],
        "temperature": 81.2,
        "throttled": ["throttled", "under-voltage since the boot"],
    }
    full = {
        **row()["vitals"]["storage"],
        "backend": "local",
        "free": 1_400_000_000,
        "size": 31_000_000_000,
    }
    nodes = {
        "cp1": row(),
        "nfs1": row(vitals={**row()["vitals"], "storage": {**full, "backend": "share", "free": 3.1e12, "size": 5e12}}),
        "pi-01": row(vitals={**hot, "storage": full}),
        "pi-02": row("drifted", drift=[
            drifted("docker-config", DIFF),
            drifted("docker-running", [], function="service.running", name="docker", follows=["docker-config"],
                    comment="Service is set to be restarted"),
            drifted("base-sysctl", ["- net.ipv4.ip_forward: 0", "+ net.ipv4.ip_forward: 1"], function="node.sysctl",
                    name="/etc/sysctl.d/99-saltberry.conf", comment="would be set: net.ipv4.ip_forward"),
            drifted("kubernetes-packages", [], function="debs.installed", name="kubernetes-packages", failed=True,
                    comment="this node is in a cluster and has kubelet 1.33.1-1.1 (the pillar says 1.34.2-1.1)"),
        ]),
        "pi-03": row("unreachable", reason="it does not answer", vitals={}, seen=NOW - 5 * HOUR),
        "pi-04": row("render error", reason=f"Rendering SLS 'base:base.hosts' failed: {UNDEFINED}"),
        "pi-05": row("apply in progress", reason='The function "state.apply" is running as PID 4711'),
    }  # fmt: skip
    return {
        "rack": "berry",
        "now": NOW,
        "every": HOUR,
        "nodes": [
            member("nfs1", "storage,master", joined=None, ready=None, version=None, ip="192.168.1.10"),
            member("cp1", "control_plane", ip="192.168.1.11"),
            *(member(f"pi-0{number}") for number in (1, 2, 4, 5)),
            member("pi-03", ready=False, reason="not Ready: Kubelet stopped posting node status."),
            member("pi-06", key="none", joined=False, ready=False, version=None, ip=None,
                   reason="never seen: switch it on, or write its card with salt-run enrol.card"),
        ],
        "problems": [],
        "pending": [{"id": "pi-77", "address": None, "since": "2026-11-23 20:41", "state": "pending",
                     "fingerprint": "9f:3c:61:d2:aa:07:b8:19:55:e4:1d:c0:42:7e:90:ab", "why": "nobody announced it"}],
        "latest": {"nodes": nodes, "check": {"began": NOW - HOUR, "seconds": 11.4, "ended": NOW - 260,
                                             "exit": 2, "problems": []}, "success": NOW - HOUR},
        "history": checks(),
        **changed,
    }  # fmt: skip


def hostile() -> dict[str, Any]:
    """Every text on the page is somebody's who means harm."""
    entry = drifted(
        NASTY, [f"+{NASTY}", NASTY], function=NASTY, name=NASTY, comment=NASTY, follows=[NASTY]
    )
    vitals = {"model": NASTY, "temperature": 1.0, "throttled": [NASTY], "uptime": 5,
              "storage": {"backend": NASTY, "path": NASTY, "free": 1, "size": 2}}  # fmt: skip
    nodes = {NASTY: row("drifted", drift=[entry], reason=NASTY, vitals=vitals), "odd": row(NASTY)}
    return facts(
        rack=NASTY,
        nodes=[member(NASTY, NASTY, version=NASTY, ip=NASTY, reason=NASTY, key=NASTY)],
        problems=[NASTY],
        pending=[{"id": NASTY, "fingerprint": NASTY, "since": NASTY, "state": NASTY, "why": NASTY}],
        latest={"nodes": nodes, "check": {"began": NOW, "seconds": 1.0, "ended": NOW, "exit": 1, "problems": [NASTY]},
                "success": NOW},
        history=[{"kind": "cut off", "began": NOW, "seconds": None, "exit": None, "reason": NASTY, "told": NASTY}],
    )  # fmt: skip
