"""The routes of one node, and the digest that node and master compare."""

from __future__ import annotations

import pytest
from saltberry_ext.utils import routes

NODES = {
    "cp1": {"ip": "192.168.1.11", "pod_cidr": "10.244.0.0/24"},
    "pi-01": {"ip": "192.168.1.21", "pod_cidr": "10.244.1.0/24"},
    "pi-02": {"ip": "192.168.1.22", "pod_cidr": "10.244.2.0/24"},
    "fresh": {"ip": "192.168.1.23", "pod_cidr": None},
    "unknown": {"pod_cidr": "10.244.3.0/24"},
}


def test_a_node_has_routes_to_all_others_that_are_complete() -> None:
    assert routes.table(NODES, "pi-01") == {
        "10.244.0.0/24": "192.168.1.11",
        "10.244.2.0/24": "192.168.1.22",
    }
    assert routes.table({}, "pi-01") == {}


@pytest.mark.parametrize(
    "facts", [{"ip": "x", "pod_cidr": "10.0.0.0/24"}, {"ip": "10.0.0.1", "pod_cidr": "10.0.0.1/24"}]
)
def test_nonsense_is_named(facts: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"cluster\.nodes: bad: "):
        routes.table({"bad": facts}, "pi-01")


def test_the_digest_does_not_depend_on_order_and_tells_nodes_apart() -> None:
    turned = dict(reversed(list(NODES.items())))
    assert routes.digest(NODES, "cp1") == routes.digest(turned, "cp1")
    assert len({routes.digest(NODES, node) for node in NODES}) == len(NODES)


@pytest.mark.parametrize("change", ["gone", "moved", "renumbered", "own"])
def test_the_digest_changes_with_the_rack(change: str) -> None:
    other = {node: dict(facts) for node, facts in NODES.items()}
    if change == "gone":
        del other["pi-02"]
    elif change == "moved":
        other["pi-02"]["ip"] = "192.168.1.99"
    elif change == "renumbered":
        other["pi-02"]["pod_cidr"] = "10.244.9.0/24"
    else:
        other["pi-01"]["pod_cidr"] = "10.244.9.0/24"
    assert routes.digest(other, "pi-01") != routes.digest(NODES, "pi-01")


def test_what_a_node_reports_equals_what_the_master_expects() -> None:
    laid = dict(reversed(list(routes.table(NODES, "pi-01").items())))
    assert routes.fingerprint("10.244.1.0/24", laid) == routes.digest(NODES, "pi-01")
    # a node without a pod network, as the master sees it before the first look at the API
    assert routes.fingerprint(None, {}) == routes.digest({}, "pi-01")
