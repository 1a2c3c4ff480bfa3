"""Kubelet's own mount of a volume of services.storage, on kernels with NFS: the real kubelet and containerd.

One machine is the storage node and runs pods, too, so its exports have it among their clients. There is
no API server: kubelet takes the pod from a file, with the volume as `volumes.values` has it for the
PersistentVolume.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab import vm, vmimage
from lab.vm import SPARE_DISK
from lab.vmsalt import Applied, Pi
from tests.unit import built
from tests.vm.conftest import CONSOLES

VOLUME = "/srv/nfs/volumes/data"
MANIFEST = "/etc/kubernetes/manifests/writer.json"
OWNER, WRITER = 999, 1234
# Images from the machine's own busybox: the one that holds a pod, and the pod's.
IMAGES = """
systemctl start docker containerd
mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/
for name in sh cat sleep id; do ln -sf busybox /tmp/image/bin/$name; done
tar -C /tmp/image -c . | docker import --change 'ENTRYPOINT ["/bin/sleep", "2147483647"]' - \\
    registry.k8s.io/pause:3.2 >/dev/null
tar -C /tmp/image -c . | docker import - docker.io/library/busybox:lab >/dev/null
docker save registry.k8s.io/pause:3.2 busybox:lab | ctr -n k8s.io images import - >/dev/null
"""
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "staticPodPath": "/etc/kubernetes/manifests",
    "cgroupDriver": "systemd",
    "failSwapOn": False,
    "authentication": {"webhook": {"enabled": False}, "anonymous": {"enabled": True}},
    "authorization": {"mode": "AlwaysAllow"},
    "syncFrequency": "5s",
    "fileCheckFrequency": "2s",
}
START = f"""
mkdir -p /mnt /etc/kubernetes/manifests
mount {SPARE_DISK} /mnt
systemd-run --unit=kubelet /mnt/kubelet --config=/etc/kubelet.json --container-runtime=remote \\
    --container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override=nfs1
"""


class Node(NamedTuple):
    pi: Pi
    applied: Applied
    source: dict[str, Any]


@pytest.fixture(scope="module")
def node(image: vm.Image) -> Iterator[Node]:
    """The machine, with the share served and kubelet running."""
    if not (built.PROGRAMS / "kubelet").exists():
        pytest.skip("kubelet is not built yet (./rack build does it)")
    with vm.net(image) as net:
        machine = net.add("nfs1", 10)
        _give_kubelet(machine.directory)
        try:
            net.start()
            yield _served(Pi(machine))
        except Exception:
            net.keep_consoles(CONSOLES)
            raise


def _give_kubelet(directory: Path) -> None:
    """The spare disk brings kubelet: the machines have no way to a mirror."""
    tree = directory / "programs"
    tree.mkdir()
    shutil.copy(built.PROGRAMS / "kubelet", tree)
    (directory / "spare.raw").unlink()
    vmimage.make_disk(directory / "spare.raw", tree, "400M", "programs")
    shutil.rmtree(tree)


def _served(pi: Pi) -> Node:
    volumes = {"data": {"size": "1G", "owner": OWNER}}
    pi.configure(
        {"nfs1": {"roles": ["storage", "master", "worker"]}},
        kubernetes={"version": "1.20.2"},
        mirror={"enabled": False},
        services={"storage": {"enabled": True, "volumes": volumes}},
    )
    applied = pi.apply("nfs.server", "containerd.configured").good()
    pi.sh(IMAGES, timeout=600)
    pi.vm.write("/etc/kubelet.json", json.dumps(KUBELET))
    pi.sh(START)
    (volume,) = pi.call("volumes.values")["volumes"]
    return Node(pi, applied, volume["source"])


def test_a_pod_writes_to_its_volume_over_nfs_as_the_volumes_owner(node: Node) -> None:
    pi = node.pi
    assert node.source == {"nfs": {"server": pi.vm.ip, "path": VOLUME}}
    assert f"{VOLUME}  {pi.vm.ip}(" in pi.said("exportfs -s")
    writer = {
        "name": "writer",
        "image": "docker.io/library/busybox:lab",
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", "id -u >/data/written; exec sleep 99999"],
        "securityContext": {"runAsUser": WRITER},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "writer", "namespace": "default"},
        "spec": {"hostNetwork": True, "terminationGracePeriodSeconds": 0, "containers": [writer],
                 "volumes": [{"name": "data", **node.source}]},
    }  # fmt: skip
    pi.vm.write(MANIFEST, json.dumps(pod))
    pi.wait("the pod's file", f"test -s {VOLUME}/written", 400)
    assert pi.said(f"cat {VOLUME}/written; stat -c %u {VOLUME}/written").split() == [
        str(WRITER), str(OWNER),
    ]  # fmt: skip
    mount = pi.said("findmnt -rn -t nfs4 -o TARGET,SOURCE")
    assert "volumes/kubernetes.io~nfs/data" in mount
    assert mount.endswith(f"{pi.vm.ip}:{VOLUME}")


def test_the_pod_gone_nothing_is_mounted_and_the_data_is_there(node: Node) -> None:
    pi = node.pi
    pi.sh(f"rm {MANIFEST}")
    pi.wait("kubelet's unmount", "! findmnt -rn -t nfs4 >/dev/null", 400)
    assert pi.said(f"cat {VOLUME}/written") == str(WRITER)
