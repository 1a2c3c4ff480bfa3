"""The rack's registry, volumes on the share and the examples, turned on in the pillar and off again.

Real: the registry, docker, containerd, kubelet, PostgreSQL, nginx. The share is a bind mount.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import lifecycle
from lab.rack import PILLAR
from tests.lab.conftest import Lab

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
ALL = ("nfs1", "cp1", "pi-01")
NODES = ("cp1", "pi-01")
TAINT = "node-role.kubernetes.io/master"
IMAGE = "localhost:5000/hello"
# bcrypt, of "open sesame"
HASH = "$2b$05$NZHPJEETtchtYHQX750jHetbs/yFNaGzrnwWqLTaEng5oBYc5opVi"
SERVICES: dict[str, Any] = {
    "storage": {
        "enabled": True,
        "volumes": {
            "registry": {"size": "1G"},
            "postgresql": {"size": "1G", "owner": 999, "claim": "default/postgresql"},
        },
    },
    "registry": {"enabled": True},
}


def apply(lab: Lab, *argv: str) -> dict[str, dict[str, Any]]:
    """`salt '*' state.apply`: what is not as it should be without a change, by node and state id."""
    return lab.applied(ALL, *argv)


def failed(applied: dict[str, dict[str, Any]]) -> list[Any]:
    return [(state, each["comment"]) for found in applied.values()
            for state, each in found.items() if each["result"] is False]  # fmt: skip


def put(lab: Lab, text: str) -> None:
    lab.control_plane.run(*lifecycle.KUBECTL, "apply", "-f", "-", stdin=text.encode())


def running_on(lab: Lab, label: str, namespace: str = "default") -> str:
    """The node on which the pod with this label is ready, if it is and there is no other."""
    told = lab.kubectl("get", "pods", "-n", namespace, "-l", label, "-o", "json")
    pods = json.loads(told)["items"]
    if len(pods) != 1 or "deletionTimestamp" in pods[0]["metadata"]:
        return ""
    ready = [each["status"] for each in pods[0]["status"].get("conditions", [])
             if each["type"] == "Ready"]  # fmt: skip
    return str(pods[0]["spec"]["nodeName"]) if ready == ["True"] else ""


def catalog(lab: Lab, node: str) -> list[str]:
    """What the registry says that it has, asked on the node."""
    argv = ("curl", "-sf", "-m", "10", "http://localhost:5000/v2/_catalog")
    told = lab.node(node).run(*argv, check=False).stdout
    return list(json.loads(told)["repositories"]) if told else []


@contextlib.contextmanager
def elsewhere(lab: Lab) -> Iterator[None]:
    """The control plane takes pods, and the worker takes no new ones."""
    lab.kubectl("taint", "node", "cp1", f"{TAINT}-")
    lab.kubectl("cordon", "pi-01")
    try:
        yield
    finally:
        lab.kubectl("uncordon", "pi-01")
        lab.kubectl("taint", "node", "cp1", f"{TAINT}=:NoSchedule", "--overwrite")


@pytest.fixture(scope="module")
def before(lab: Lab) -> Iterator[dict[str, Any]]:
    """The rack's own pillar, which holds again afterwards; with nothing of the services left but logs."""
    text = lab.master.run("cat", PILLAR).stdout
    try:
        yield yaml.safe_load(text)
    finally:
        lab.master.write(PILLAR, text)
        with contextlib.suppress(AssertionError, KeyError):
            apply(lab)
        lab.kubectl("delete", "namespace", "registry", "--ignore-not-found", "--wait=false")
        lab.kubectl("delete", "pv", "registry", "postgresql", "--ignore-not-found", "--wait=false")
        lab.master.run("rm", "-rf", "/srv/nfs/volumes/registry", "/srv/nfs/volumes/postgresql")
        for node in NODES:
            lab.node(node).run("apt-get", "purge", "-qq", "-y", "docker.io", check=False)


@pytest.fixture(scope="module")
def site(lab: Lab, before: dict[str, Any]) -> Lab:
    """Storage and registry are on, by the pillar and one apply; docker for people, too."""
    wanted = {**before, "services": SERVICES, "docker": {"enabled": True}}
    # A reconcile would bring the services before test mode has told of them
    with lab.reconcile_by_hand():
        lab.master.write(PILLAR, yaml.safe_dump(wanted))
        told = apply(lab, "test=True")
        assert failed(told) == []
        assert told["cp1"]["services-registry"]["changes"]["Deployment registry/registry"] == "new"
        assert told["cp1"]["services-storage"]["result"] is None
        assert lab.kubectl("get", "pv", "-o", "name") == "", "test mode changed something"
        assert failed(apply(lab)) == []
    return lab


@pytest.fixture(scope="module")
def pushed(site: Lab) -> str:
    """An image that the worker's docker pushed."""
    pi, source = site.node("pi-01"), f"{site.rack.master_ip}:5000/busybox:lab"
    pi.run("crictl", "pull", source)
    script = (
        f"ctr -n k8s.io images export - {source} | docker load && docker tag {source} {IMAGE}:1"
    )
    pi.run("bash", "-o", "pipefail", "-c", script)
    pi.run("docker", "push", f"{IMAGE}:1")
    return f"{IMAGE}:1"


def test_what_docker_pushes_on_one_node_all_others_have(site: Lab, pushed: str) -> None:
    for node in NODES:
        assert catalog(site, node) == ["hello"]
        site.node(node).run("crictl", "pull", pushed)
    cp1 = site.control_plane
    cp1.run("docker", "pull", pushed)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hello", "labels": {"app": "hello"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "hello", "image": pushed, "command": ["sleep", "999"]}],
        },
    }
    put(site, json.dumps(pod))
    try:
        site.wait("a pod of that image", lambda: running_on(site, "app=hello") == "pi-01")
    finally:
        site.kubectl("delete", "pod", "hello", "--wait=false")


def test_only_the_node_itself_has_it_on_localhost(site: Lab, pushed: str) -> None:
    pi = site.node("pi-01")
    reach = f"curl -sf -m 5 http://{pi.ip}:5000/v2/"
    assert site.control_plane.run("sh", "-c", reach, check=False).returncode != 0
    idle = pi.run("systemctl", "cat", "saltberry-registry.service").stdout
    assert "--exit-idle-time" in idle


def test_a_second_apply_changes_nothing(site: Lab, pushed: str) -> None:
    assert apply(site) == {name: {} for name in ALL}
    assert apply(site, "test=True") == {name: {} for name in ALL}


def test_the_images_are_there_when_the_pod_has_moved_to_another_node(
    site: Lab, pushed: str
) -> None:
    assert running_on(site, "app=registry", "registry") == "pi-01"
    with elsewhere(site):
        site.kubectl("delete", "pod", "-n", "registry", "-l", "app=registry", "--wait=false")
        moved = lambda: running_on(site, "app=registry", "registry") == "cp1"  # noqa: E731
        site.wait("the registry on another node", moved)
        site.wait("the way to it", lambda: catalog(site, "pi-01") == ["hello"])
        pi = site.node("pi-01")
        pi.run("docker", "rmi", pushed)
        pi.run("docker", "pull", pushed)


def test_what_nothing_needs_is_collected_and_the_rest_stays(site: Lab, pushed: str) -> None:
    pi, folder = site.node("pi-01"), "/srv/nfs/volumes/registry/docker/registry/v2/blobs"
    blobs = lambda: set(site.master.run("find", folder, "-name", "data").stdout.split())  # noqa: E731
    needed = blobs()
    pi.run("bash", "-o", "pipefail", "-c", f"tar c /etc/passwd | docker import - {IMAGE}:2")
    said = pi.run("docker", "push", f"{IMAGE}:2").stdout
    digest = next(word for word in said.split() if word.startswith("sha256:"))
    assert blobs() > needed
    url = f"http://localhost:5000/v2/hello/manifests/{digest}"
    pi.run("curl", "-sf", "-X", "DELETE", url)
    site.control_plane.run("systemctl", "start", "saltberry-registry-collect.service")
    assert blobs() == needed
    assert site.master.run("ls", "/srv/nfs/volumes/registry/.collect", check=False).returncode != 0
    site.wait("the way to it", lambda: catalog(site, "pi-01") == ["hello"])
    pi.run("docker", "rmi", pushed)
    pi.run("docker", "pull", pushed)
    assert apply(site)["cp1"] == {}, "the restart is no drift"


def test_other_machines_use_it_by_tls_and_password_once_a_person_made_these(
    site: Lab, before: dict[str, Any], pushed: str
) -> None:
    lan = {"lan": {"enabled": True}}
    wanted = {**SERVICES, "registry": {**SERVICES["registry"], **lan}}
    cp1, pi = site.control_plane, site.node("pi-01")

    def applied() -> list[Any]:
        done = site.salt("cp1", "state.apply", "services", "queue=True")["cp1"]
        return [each["comment"] for each in done.values() if each["result"] is False]

    site.master.write(
        PILLAR, yaml.safe_dump({**before, "services": wanted, "docker": {"enabled": True}})
    )
    (said,) = applied()
    assert "kubectl -n registry create secret generic lan --from-file=tls.crt" in said
    name = f"/CN=registry -addext subjectAltName=IP:{pi.ip}".split()
    cp1.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", "/root/tls.key", "-out", "/root/tls.crt", "-subj", *name,
    )  # fmt: skip
    cp1.write("/root/htpasswd", f"me:{HASH}\n")
    files = [f"--from-file=/root/{each}" for each in ("tls.crt", "tls.key", "htpasswd")]
    site.kubectl("-n", "registry", "create", "secret", "generic", "lan", *files)
    assert applied() == []
    assert applied() == []

    def code(*argv: str) -> str:
        words = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", *argv)
        url = f"https://{pi.ip}:30500/v2/_catalog"
        return cp1.run(*words, "--cacert", "/root/tls.crt", url, check=False).stdout

    site.wait("the door to the LAN", lambda: code() == "401")
    assert code("-u", "me:open sesame") == "200"
    assert code("-u", "me:sesame") == "401"
    assert catalog(site, "pi-01") == ["hello"], "the rack itself needs neither"
    cp1.run("rm", "/root/tls.key", "/root/tls.crt", "/root/htpasswd")


def test_the_example_site_answers(site: Lab) -> None:
    text = (EXAMPLES / "site.yaml").read_text()
    put(site, text)
    try:
        address = json.loads(site.kubectl("get", "service", "site", "-o", "json"))["spec"][
            "clusterIP"
        ]

        def answers() -> bool:
            argv = ("curl", "-s", "-m", "3", f"http://{address}/")
            return "Hello from the rack" in site.control_plane.run(*argv, check=False).stdout

        site.wait("the site", answers)
    finally:
        site.control_plane.run(
            *lifecycle.KUBECTL, "delete", "--wait=false", "-f", "-", stdin=text.encode()
        )


def test_the_example_database_keeps_its_rows_on_another_node(site: Lab) -> None:
    text = (EXAMPLES / "postgresql.yaml").read_text()
    site.control_plane.run(
        *lifecycle.KUBECTL, "create", "secret", "generic", "postgresql",
        "--from-file=password=/dev/stdin", stdin=b"open sesame",
    )  # fmt: skip
    put(site, text)

    def sql(words: str) -> str:
        argv = ("exec", "postgresql-0", "--", "psql", "-U", "postgres", "-tAc", words)
        return site.kubectl(*argv).strip()

    try:
        site.wait("PostgreSQL", lambda: running_on(site, "app=postgresql") == "pi-01", 180)
        sql("create table berries (name text)")
        sql("insert into berries values ('rasp'), ('straw')")
        with elsewhere(site):
            site.kubectl("delete", "pod", "postgresql-0", "--wait=false")
            moved = lambda: running_on(site, "app=postgresql") == "cp1"  # noqa: E731
            site.wait("PostgreSQL on another node", moved, 180)
            assert sql("select name from berries order by name") == "rasp\nstraw"
    finally:
        site.control_plane.run(
            *lifecycle.KUBECTL, "delete", "--wait=false", "-f", "-", stdin=text.encode()
        )
        site.kubectl("delete", "secret", "postgresql")
    owner = site.master.run("stat", "-c", "%u", "/srv/nfs/volumes/postgresql/pgdata/PG_VERSION")
    assert owner.stdout.strip() == "999", "the claim is deleted, its data is not"


def test_turned_off_everything_goes_but_the_data_and_on_again_it_is_back(
    site: Lab, before: dict[str, Any], pushed: str
) -> None:
    docker = {"docker": {"enabled": True}}
    site.master.write(PILLAR, yaml.safe_dump({**before, **docker}))
    off = apply(site)
    assert failed(off) == []
    left = site.kubectl("get", "all,configmaps,serviceaccounts", "-n", "registry",
                        "-l", "app.kubernetes.io/part-of=registry", "-o", "name")  # fmt: skip
    assert left == ""
    for node in NODES:
        units = "/etc/systemd/system/saltberry-registry*"
        assert site.node(node).run("sh", "-c", f"ls {units}", check=False).stdout == ""
        listening = site.node(node).run("ss", "-Hltn", "sport = :5000").stdout
        assert "127.0.0.1:5000" not in listening
    assert site.master.run("ls", "/srv/nfs/volumes/registry/docker").stdout
    assert apply(site) == {name: {} for name in ALL}
    # also when somebody took the claim away, which closes the volume to all others
    site.kubectl("delete", "namespace", "registry", "--timeout=60s")
    site.master.write(PILLAR, yaml.safe_dump({**before, **docker, "services": SERVICES}))
    assert failed(apply(site)) == []
    site.wait("the images of before", lambda: catalog(site, "pi-01") == ["hello"])
