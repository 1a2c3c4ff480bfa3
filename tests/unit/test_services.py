"""The manifests of services: rendered by Salt as on the control plane, then held against Kubernetes.

Against the published schemas of the versions that racks run, and a real API server's dry run. Add a
service with its pillars to CASES.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.loader
import yaml

from tests.unit import kube_schema
from tests.unit.modules import kube_api
from tests.unit.rendering import CLUSTER, merged, minion_opts

REPO = Path(__file__).resolve().parents[2]
STORAGE = {"enabled": True, "volumes": {"registry": {"size": "50G"}}}
# What is under services in the pillar, by service, by what is different
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "storage": {
        "static": {
            "storage": merged(
                STORAGE,
                {"volumes": {"data": {"size": "1T", "access": ["ReadOnlyMany"], "claim": "web/data",
                                      "owner": 999}}},
            )
        },
        "none": {"storage": {"enabled": True}},
        "dynamic": {"storage": merged(STORAGE, {"dynamic": {"enabled": True}})},
        "dynamic, deleting": {
            "storage": {"enabled": True, "dynamic": {"enabled": True, "on_delete": "delete"}}
        },
    },
    "registry": {
        "plain": {"storage": STORAGE, "registry": {"enabled": True}},
        "untagged": {
            "storage": STORAGE, "registry": {"enabled": True, "collect_untagged": True}
        },
        "lan": {
            "storage": STORAGE, "registry": {"enabled": True, "lan": {"enabled": True}}
        },
        "lan for all": {
            "storage": STORAGE,
            "registry": {"enabled": True, "lan": {"enabled": True, "password": False}},
        },
    },
    "ingress": {
        "on the nodes": {"ingress": {"enabled": True}},
        "on one node": {"ingress": {"enabled": True, "nodes": ["pi-01"]}},
        "an address of its own": {
            "ingress": {"enabled": True, "load_balancer": "metallb",
                        "addresses": ["192.168.1.240-192.168.1.249"]}
        },
    },
}  # fmt: skip
_FIGURES = {"enabled": True, "volumes": {"influxdb": {"size": "20G"}}}
CASES["metrics"] = {
    "all of it": {
        "storage": _FIGURES,
        "metrics": {"enabled": True, "grafana": {"node_port": 30300}},
    },
    "without a volume": {"metrics": {"enabled": True, "volume": None}},
    "kubectl top alone": {
        "metrics": {
            "enabled": True, "influxdb": {"enabled": False}, "grafana": {"enabled": False}
        },
    },
}  # fmt: skip
CASES["dashboard"] = {
    "by port-forward": {"dashboard": {"enabled": True}},
    "at a port": {"dashboard": {"enabled": True, "node_port": 30400}},
}
# Kinds that MetalLB brings: what is said in them is its own chart's to judge.
METALLB = {"ipaddresspools": "IPAddressPool", "l2advertisements": "L2Advertisement"}
ALL = [(service, name) for service, cases in CASES.items() for name in cases]
# Each is rendered on a share by NFS, and on one that comes by other means.
SHARES = {"nfs": {}, "by other means": {"nfs": {"manage_mounts": False}}}

Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Objects]:
    """Return a function: what a service applies, as its own SLS and the modules have it."""
    done: dict[tuple[str, str, str], Objects] = {}

    def render(service: str, name: str, share: str = "nfs") -> Objects:
        key = (service, name, share)
        if key not in done:
            pillar = {"services": CASES[service][name], "cluster": CLUSTER, **SHARES[share]}
            opts = minion_opts(tmp_path_factory.mktemp("minion"), ["control_plane"], pillar)
            utils = salt.loader.utils(opts)
            modules = SimpleNamespace(m=salt.loader.minion_mods(opts, utils=utils)).m
            low = modules.state.show_low_sls(f"services.{service}")
            assert all(isinstance(chunk, dict) for chunk in low), low
            (chunk,) = (each for each in low if each["state"] == "manifests")
            assert chunk["fun"] == "applied"
            done[key] = modules.manifests.read(
                chunk["source"], chunk["name"], **chunk.get("values", {})
            )
        return done[key]

    return render


def named(found: Objects, kind: str, name: str) -> dict[str, Any]:
    (one,) = (each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return one


@pytest.mark.parametrize("version", [*kube_schema.MINORS, kube_schema.NEWEST])
@pytest.mark.parametrize(("service", "name"), ALL)
def test_every_version_of_kubernetes_knows_every_field(
    objects: Callable[..., Objects], service: str, name: str, version: str
) -> None:
    found = [each for share in SHARES for each in objects(service, name, share)
             if kube_schema.is_builtin(each)]  # fmt: skip
    assert [said for each in found for said in kube_schema.problems(each, version)] == []


def test_the_schema_check_finds_a_field_that_there_is_not() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
           "spec": {"containers": [{"name": "web", "image": "web", "comand": ["sh"]}]}}  # fmt: skip
    assert "comand" in str(kube_schema.problems(pod, kube_schema.NEWEST))
    (later,) = kube_schema.problems({**pod, "apiVersion": "v9"}, kube_schema.NEWEST)
    assert later == f"web: {kube_schema.NEWEST} knows no Pod of v9"


@pytest.mark.parametrize(
    "file", sorted((REPO / "docs/examples").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_version_of_kubernetes_knows_the_examples(file: Path) -> None:
    found = list(yaml.safe_load_all(file.read_text()))
    assert found
    for version in (*kube_schema.MINORS, kube_schema.NEWEST):
        assert [said for each in found for said in kube_schema.problems(each, version)] == []


@pytest.mark.parametrize(("service", "name"), ALL)
def test_pods_ask_for_little_and_may_do_little(
    objects: Callable[..., Objects], service: str, name: str
) -> None:
    """What fits a Pi of 1 GB; and nobody is root but who mounts."""
    for each in objects(service, name):
        if each["kind"] not in ("Deployment", "DaemonSet", "StatefulSet"):
            continue
        pod = each["spec"]["template"]["spec"]
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        for container in containers:
            assert container["resources"]["limits"]["memory"].endswith("Mi"), container["name"]
            assert "memory" in container["resources"]["requests"]
            asked = container["image"]
            assert ":" in asked.rpartition("/")[2], f"{asked} has no version"
            if not container["securityContext"].get("privileged"):
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    if kube_api.missing():
        pytest.skip(kube_api.missing())
    with kube_api.running(tmp_path_factory.mktemp("api"), ("namespace", "serviceaccount")) as made:
        for service in (*CASES, "metallb-system"):
            made.kubectl("create", "namespace", service)
        for plural, kind in METALLB.items():
            made.kubectl(
                "apply", "-f", "-", stdin=json.dumps(kube_api.any_kind("metallb.io", plural, kind))
            )
        made.kubectl("wait", "--for=condition=established", "crd", "--all", "--timeout=60s")
        yield made


@pytest.mark.parametrize(("service", "name"), ALL)
def test_a_real_api_server_takes_it(
    objects: Callable[..., Objects], api: kube_api.Api, service: str, name: str
) -> None:
    """Server-side, as on the rack; a dry run, so that the cases are not in each other's way."""
    for share in SHARES:
        found = objects(service, name, share)
        # Kubernetes before 1.20.6 ends in a panic when it is to apply these (#100714): made by hand here
        by_hand = [each for each in found if each["kind"] == "APIService"]
        text = yaml.safe_dump_all([each for each in found if each not in by_hand])
        if text.strip():
            api.dry_run(text)
        if by_hand:
            api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(by_hand))


def test_a_volume_is_kept_reserved_and_where_the_share_is(objects: Callable[..., Objects]) -> None:
    found = objects("storage", "static")
    assert [each["kind"] for each in found] == ["PersistentVolume"] * 2
    registry, data = (
        named(found, "PersistentVolume", name)["spec"] for name in ("registry", "data")
    )
    assert registry["nfs"] == {"server": "192.168.1.10", "path": "/srv/nfs/volumes/registry"}
    assert {"hard", "nfsvers=4.2"} <= set(registry["mountOptions"])
    assert (registry["persistentVolumeReclaimPolicy"], registry["storageClassName"]) == (
        "Retain",
        "",
    )
    assert registry["capacity"] == {"storage": "50Gi"}
    assert (registry["claimRef"]["namespace"], registry["claimRef"]["name"]) == (
        "registry",
        "registry",
    )
    assert (data["claimRef"]["namespace"], data["claimRef"]["name"]) == ("web", "data")
    assert data["accessModes"] == ["ReadOnlyMany"]
    brought = named(objects("storage", "static", "by other means"), "PersistentVolume", "registry")
    assert brought["spec"]["hostPath"] == {
        "path": "/srv/share/volumes/registry", "type": "Directory"
    }  # fmt: skip
    assert "mountOptions" not in brought["spec"]
    assert objects("storage", "none") == []


def test_what_is_made_on_demand_is_archived_unless_the_pillar_says_delete(
    objects: Callable[..., Objects],
) -> None:
    for name, policy in (("dynamic", "archive"), ("dynamic, deleting", "delete")):
        made = named(objects("storage", name), "StorageClass", "share")
        assert made["parameters"]["onDelete"] == policy
        assert made["parameters"]["share"] == "/srv/nfs/volumes/dynamic"
        assert (
            made["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
        )


def test_the_registry_runs_as_the_owner_of_its_volume(objects: Callable[..., Objects]) -> None:
    pod = named(objects("registry", "plain"), "Deployment", "registry")["spec"]
    assert pod["strategy"] == {"type": "Recreate"}
    context = pod["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (100000, True)
    assert (
        named(objects("registry", "plain"), "Service", "registry")["spec"]["clusterIP"]
        == "10.96.0.50"
    )


def test_the_lan_gets_tls_and_passwords_and_the_rack_itself_neither(
    objects: Callable[..., Objects],
) -> None:
    assert "lan" not in str(objects("registry", "plain"))
    found = objects("registry", "lan")
    assert named(found, "Service", "lan")["spec"]["ports"][0]["nodePort"] == 30500
    own, lan = named(found, "Deployment", "registry")["spec"]["template"]["spec"]["containers"]
    assert "env" not in own
    told = {each["name"]: each["value"] for each in lan["env"]}
    assert told["REGISTRY_HTTP_TLS_KEY"] == "/run/secrets/lan/tls.key"
    assert told["REGISTRY_AUTH_HTPASSWD_PATH"] == "/run/secrets/lan/htpasswd"
    assert "HTPASSWD" not in str(objects("registry", "lan for all"))
    assert "Secret" not in {each["kind"] for each in found}


def test_untagged_images_go_only_when_asked(objects: Callable[..., Objects]) -> None:
    for name, there in (("plain", False), ("untagged", True)):
        script = named(objects("registry", name), "ConfigMap", "registry")["data"]["collect"]
        assert ("--delete-untagged" in script) is there


def test_the_collector_asks_every_node_and_each_kubelet_by_its_certificate(
    objects: Callable[..., Objects],
) -> None:
    text = named(objects("metrics", "all of it"), "ConfigMap", "collector")["data"][
        "prometheus.yaml"
    ]
    node, kubelet = yaml.safe_load(text)["scrape_configs"]

    def asked(job: dict[str, Any]) -> dict[str, str]:
        return {each["labels"]["instance"]: each["targets"][0] for each in job["static_configs"]}

    assert asked(node) == {"nfs1": "192.168.1.10:9100", "cp1": "192.168.1.11:9100"}
    assert asked(kubelet) == {"cp1": "192.168.1.11:10250"}
    assert kubelet["tls_config"] == {
        "ca_file": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    }


def test_no_password_of_metrics_is_in_what_salt_renders(objects: Callable[..., Objects]) -> None:
    secrets = [each for each in objects("metrics", "all of it") if each["kind"] == "Secret"]
    assert {each["metadata"]["name"] for each in secrets} == {"accounts", "grafana"}
    assert not any("data" in each or "stringData" in each for each in secrets)


def test_metrics_server_checks_the_kubelets_certificates(objects: Callable[..., Objects]) -> None:
    found = objects("metrics", "kubectl top alone")
    pod = named(found, "Deployment", "metrics-server")["spec"]["template"]["spec"]
    told = pod["containers"][0]["args"]
    assert any(each.startswith("--kubelet-certificate-authority=") for each in told)
    assert "--kubelet-insecure-tls" not in told
    kinds = {each["kind"] for each in found}
    assert not {"ConfigMap", "Secret", "PersistentVolumeClaim"} & kinds


def test_boards_ask_only_for_what_is_collected_and_measured(
    objects: Callable[..., Objects],
) -> None:
    """What a board asks for and the collector drops would be empty for ever."""
    found = objects("metrics", "all of it")
    text = named(found, "ConfigMap", "collector")["data"]["prometheus.yaml"]
    kept = [
        one["regex"]
        for job in yaml.safe_load(text)["scrape_configs"]
        for one in job["metric_relabel_configs"]
        if one["action"] == "keep"
    ]
    boards = named(found, "ConfigMap", "boards")["data"]
    assert set(boards) == {
        f"{name}.json" for name in ("rack", "node", "pods", "drift", "enrolment")
    }
    asked = {name for board in boards.values() for name in re.findall(r'FROM \\"(\w+)\\"', board)}
    assert len(asked) > 15
    assert [name for name in asked if name != "up" and not re.fullmatch("|".join(kept), name)] == []


def test_grafana_reads_the_boards_and_may_only_read_the_figures(
    objects: Callable[..., Objects],
) -> None:
    found = objects("metrics", "all of it")
    config = named(found, "ConfigMap", "grafana")["data"]
    (source,) = yaml.safe_load(config["source.yaml"])["datasources"]
    assert (source["user"], source["jsonData"]["dbName"]) == ("grafana", "rack")
    for board in named(found, "ConfigMap", "boards")["data"].values():
        for panel in json.loads(board)["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]
    (provider,) = yaml.safe_load(config["boards.yaml"])["providers"]
    pod = named(found, "Deployment", "grafana")["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert provider["options"]["path"] == mounts["boards"]


def test_the_dashboard_itself_may_do_nothing_and_no_account_has_a_token_that_stays(
    objects: Callable[..., Objects],
) -> None:
    found = objects("dashboard", "by port-forward")
    bound = {
        subject["name"]: each["roleRef"]["name"]
        for each in found
        if each["kind"].endswith("Binding") and "cluster" not in each["metadata"]["name"]
        for subject in each["subjects"]
    }
    assert bound == {"admin-user": "cluster-admin", "view-user": "view"}
    subjects = {
        subject["name"]
        for each in found
        if each["kind"].endswith("Binding")
        for subject in each["subjects"]
    }
    assert "headlamp" not in subjects
    assert "Secret" not in {each["kind"] for each in found}


def test_the_ingress_is_on_the_nodes_own_ports_or_on_an_address(
    objects: Callable[..., Objects],
) -> None:
    made = named(objects("ingress", "on the nodes"), "DaemonSet", "traefik")["spec"]["template"][
        "spec"
    ]
    ports = {each["name"]: each.get("hostPort") for each in made["containers"][0]["ports"]}
    assert ports == {"web": 80, "websecure": 443, "ping": None}
    assert "affinity" not in made or "NotIn" in str(made["affinity"])
    assert "'values': ['pi-01']" in str(
        named(objects("ingress", "on one node"), "DaemonSet", "traefik")
    )
    balanced = objects("ingress", "an address of its own")
    assert named(balanced, "IPAddressPool", "rack")["spec"] == {
        "addresses": ["192.168.1.240-192.168.1.249"]
    }
    assert named(balanced, "Service", "traefik")["spec"]["type"] == "LoadBalancer"
    assert "hostPort" not in str(named(balanced, "Deployment", "traefik"))
    for found in (balanced, objects("ingress", "on the nodes")):
        (name,) = (each["metadata"] for each in found if each["kind"] == "IngressClass")
        assert name["annotations"] == {"ingressclass.kubernetes.io/is-default-class": "true"}
