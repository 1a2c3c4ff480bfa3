"""A real Kubernetes API server on this machine, for tests of what talks to it.

etcd, kube-apiserver and kube-controller-manager as processes, with certificates and kubeconfigs
made by the real kubeadm. No kubelet, so nothing outside of the given folder is touched. The
binaries are those that the lab builds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from saltberry_ext.utils import kubeadm_config

from tests.unit import built

BINARIES = built.PROGRAMS
# where Debian's etcd-server may be: installed, or in the lab's build root
ETCD = (shutil.which("etcd"), str(built.ETCD))
NEEDED = ("kubeadm", "kubectl", "kube-apiserver", "kube-controller-manager")


def etcd() -> str | None:
    """Path of an etcd; None if there is none."""
    return next((path for path in ETCD if path and os.access(path, os.X_OK)), None)


def address() -> str | None:
    """An address of this machine that is not the loopback's, which kubeadm refuses; None if none.

    Connecting a UDP socket asks the kernel for the way out and sends nothing.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def missing() -> str:
    """What a test would be skipped for; empty if everything is there."""
    lacking = [name for name in NEEDED if not os.access(BINARIES / name, os.X_OK)]
    lacking += [] if etcd() else ["etcd"]
    if not address():
        return "this machine has no address but the loopback's"
    return f"not built yet (./rack build does it): {', '.join(lacking)}" if lacking else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass
class Api:
    """A running control plane without nodes."""

    etc: Path  # in the place of /etc/kubernetes
    endpoint: str
    settings: dict[str, object]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(BINARIES / "kubectl"), f"--kubeconfig={self.etc}/admin.conf", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def dry_run(self, manifests: str) -> None:
        """Have the API server judge manifests; fail with its words."""
        done = subprocess.run(
            [str(BINARIES / "kubectl"), f"--kubeconfig={self.etc}/admin.conf", "apply",
             "--server-side", "--dry-run=server", "-f", "-"],
            input=manifests, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _kubeadm(*arguments: str) -> None:
    subprocess.run(
        [str(BINARIES / "kubeadm"), *arguments], capture_output=True, timeout=120, check=True
    )


def _config(etc: Path, host: str, port: int) -> tuple[Path, dict[str, object]]:
    """kubeadm's file by our own renderer, with the certificates below ``etc``."""
    settings: dict[str, object] = {
        "version": "1.20.2",
        "cluster_name": "berry",
        "node": "cp1",
        "node_ip": host,
        "endpoint": f"{host}:{port}",
        "api_port": port,
        "pod_network": "10.244.0.0/16",
        "service_network": "10.96.0.0/12",
        "service_domain": "cluster.local",
        "image_repository": "registry.invalid",
    }
    documents = list(yaml.safe_load_all(kubeadm_config.init_config(settings)))
    documents[1]["certificatesDir"] = f"{etc}/pki"
    path = etc / "init.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path, settings


def _start(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(argv, stdout=stream, stderr=stream)


def _etcd_argv(data: Path, client: int) -> list[str]:
    url, peer = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{free_port()}"
    return [
        str(etcd()),
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def _apiserver_argv(pki: Path, host: str, port: int, etcd_port: int) -> list[str]:
    return [
        str(BINARIES / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        f"--bind-address={host}",
        f"--advertise-address={host}",
        "--authorization-mode=Node,RBAC",
        # as kubeadm has it
        "--allow-privileged=true",
        "--enable-bootstrap-token-auth=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-cluster-ip-range=10.96.0.0/12",
    ]


def _wait(api: Api, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            api.kubectl("get", "--raw=/readyz")
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > end:
                raise AssertionError(f"no API server: {log.read_text()[-2000:]}") from None
            time.sleep(0.3)


def _publish(api: Api, config: Path) -> None:
    """The phases of ``kubeadm init`` that write what a joining node reads."""
    files = [f"--config={config}", f"--kubeconfig={api.etc}/admin.conf"]
    _kubeadm("init", "phase", "bootstrap-token", "--skip-token-print", *files)
    # the second of these also makes a note on the control plane's node, which has to exist for it
    metadata = {"name": "cp1", "labels": {"kubernetes.io/hostname": "cp1"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
    api.kubectl("create", "-f", "-", stdin=json.dumps(node))
    _kubeadm("init", "phase", "upload-config", "all", *files)
    api.kubectl("delete", "node", "cp1")


@contextlib.contextmanager
def running(folder: Path, controllers: tuple[str, ...] = ()) -> Iterator[Api]:
    """Start a control plane below ``folder``; stop it, whatever happens.

    It has the controllers of bootstrap tokens, and those that are asked for.
    """
    etc = folder / "kubernetes"
    etc.mkdir()
    port, etcd_port = free_port(), free_port()
    host = address() or ""
    config, settings = _config(etc, host, port)
    for phase in ("ca", "apiserver", "sa"):
        arguments = [] if phase == "sa" else [f"--config={config}"]
        where = [f"--cert-dir={etc}/pki"] if phase == "sa" else []
        _kubeadm("init", "phase", "certs", phase, *arguments, *where)
    _kubeadm(
        "init", "phase", "kubeconfig", "admin", f"--config={config}", f"--kubeconfig-dir={etc}"
    )
    api = Api(etc, f"{host}:{port}", settings)
    manager = [
        str(BINARIES / "kube-controller-manager"),
        f"--kubeconfig={etc}/admin.conf",
        f"--controllers={','.join(('bootstrapsigner', 'tokencleaner', *controllers))}",
        f"--service-account-private-key-file={etc}/pki/sa.key",
        "--leader-elect=false",
        f"--secure-port={free_port()}",
        "--port=0",
        "--bind-address=127.0.0.1",
    ]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_start(_etcd_argv(folder / "etcd", etcd_port), folder / "etcd.log"))
        argv = _apiserver_argv(etc / "pki", host, port, etcd_port)
        processes.append(_start(argv, folder / "apiserver.log"))
        _wait(api, folder / "apiserver.log")
        processes.append(_start(manager, folder / "manager.log"))
        _publish(api, config)
        yield api
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def any_kind(group: str, plural: str, kind: str, scope: str = "Namespaced") -> dict[str, object]:
    """A definition of a kind in which anything may stand: for what an operator would bring."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": scope,
            "versions": [
                {"name": version, "served": True, "storage": version == "v1",
                 "schema": {"openAPIV3Schema": schema}}
                for version in ("v1", "v1beta1")
            ],
        },
    }  # fmt: skip
