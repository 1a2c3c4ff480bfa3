"""The cluster's DNS; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "coredns"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def configured(name: str) -> dict[str, Any]:
    """Have ``kubernetes.dns_upstream`` and the rack's nodes in the cluster's DNS.

    name
        Anything.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        if not __salt__["manifests.is_here"]():
            why = "there is no cluster here yet"
            return {**ret, "result": None if __opts__["test"] else False, "comment": why}
        told = __salt__["coredns.plan" if __opts__["test"] else "coredns.apply"]()
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if not told:
        return {**ret, "comment": "the cluster's DNS is as it should be"}
    ret["changes"] = {"Corefile": told}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": "the cluster's DNS would be configured"}
    return {**ret, "comment": "the cluster's DNS is configured; it reads that within a minute"}
