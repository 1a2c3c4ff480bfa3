"""What a rack without internet needs, and fetching it: real apt, against the lab's signed repositories."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltberry_ext.runners import _aptmirror as aptmirror
from saltberry_ext.runners import _imagemirror as imagemirror
from saltberry_ext.runners import mirror
from saltberry_ext.utils import rackspec

from tests.unit import built
from tests.unit.rendering import SALT, merged, rack_of

REPO = Path(__file__).resolve().parents[3]
DEFAULTS = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())
LAB = built.newest("mirror-*")
needs_lab = pytest.mark.skipif(
    not (LAB / "apt/kubernetes").is_dir() or not shutil.which("apt-get"),
    reason="needs apt, and the lab's repositories (./rack build makes them)",
)
# Packages that need no others: the lab's repositories lack the base system.
KUBERNETES = ["kubectl=1.20.2-1.1", "cri-tools"]
DEBIAN = ["gnupg-l10n", "no-such-package"]


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        handler = functools.partial(Handler, directory=str(folder))
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Server]:
    """The internet: a copy of the lab's repositories, for a test to spoil."""
    web = tmp_path / "web"
    shutil.copytree(LAB / "apt", web / "apt", copy_function=shutil.copy)
    server = Server(web)
    yield server
    server.shutdown()
    server.server_close()


def apt(work: Path, at: str) -> Any:
    key = f"[signed-by={LAB}/keys/saltberry-lab.gpg]"
    return aptmirror.Apt(
        work, [f"deb {key} {at}/apt/debian bookworm main"], [f"deb {key} {at}/apt/kubernetes/ /"]
    )


def synced(apt: Any, folder: Path, *groups: list[str]) -> int:
    apt.update()
    wanted = apt.known(groups)
    debs = apt.needed(wanted)
    apt.fetch(wanted)
    return int(apt.publish(folder, debs))


@needs_lab
def test_what_was_fetched_is_a_signed_repository_and_is_fetched_once(
    outside: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    groups = (KUBERNETES, DEBIAN)
    assert synced(apt(tmp_path / "work", outside.url), folder, *groups) == 3
    assert [path for path in folder.rglob(".*") if path.is_file()] == []
    outside.asked.clear()
    assert synced(apt(tmp_path / "work", outside.url), folder, *groups) == 0
    assert [path for path in outside.asked if path.endswith(".deb")] == []
    assert [path for path in folder.rglob(".*") if path.is_file()] == []
    # The mirror alone is enough for another apt, which checks the signatures as a node does.
    inside = Server(folder)
    try:
        again = apt(tmp_path / "node", f"{inside.url}/127.0.0.1")
        assert synced(again, tmp_path / "copy", *groups) == 3
        by_hash = [path for path in folder.rglob("by-hash/SHA256/*") if path.is_file()]
        assert by_hash, "what Debian's repositories tell nodes to ask for"
    finally:
        inside.shutdown()
        inside.server_close()


@needs_lab
def test_cut_off_in_a_package_it_goes_on_there(outside: Server, tmp_path: Path) -> None:
    work, folder = tmp_path / "work", tmp_path / "mirror"
    first = apt(work, outside.url)
    first.update()
    (deb,) = (each for name, each in first.needed([KUBERNETES]).items() if "kubectl" in name)
    (whole,) = (LAB / "apt/kubernetes").rglob(deb.name)
    (work / "archives/partial" / deb.name).write_bytes(whole.read_bytes()[: deb.size // 2])
    synced(apt(work, outside.url), folder, KUBERNETES)
    (fetched,) = folder.rglob(deb.name)
    assert fetched.read_bytes() == whole.read_bytes()


@needs_lab
def test_what_was_changed_on_the_way_is_refused(outside: Server, tmp_path: Path) -> None:
    (deb,) = (tmp_path / "web").rglob("kubectl_*.deb")
    content = bytearray(deb.read_bytes())
    content[-1] ^= 1
    deb.write_bytes(content)
    with pytest.raises(aptmirror.Failed, match="Hash Sum mismatch"):
        synced(apt(tmp_path / "work", outside.url), tmp_path / "mirror", KUBERNETES)
    assert not list((tmp_path / "mirror").rglob("*.deb"))
    (release,) = (tmp_path / "web").rglob("apt/debian/dists/bookworm/InRelease")
    release.write_text(release.read_text().replace("Suite: bookworm", "Suite: other"))
    with pytest.raises(aptmirror.Failed, match=r"apt-get update: .*InRelease. is not signed"):
        apt(tmp_path / "fresh", outside.url).update()


@needs_lab
def test_without_the_internet_it_says_whom_it_did_not_reach(tmp_path: Path) -> None:
    closed = Server(tmp_path)
    closed.shutdown()
    closed.server_close()
    with pytest.raises(
        aptmirror.Failed, match=f"apt-get update: .*127.0.0.1.*{closed.server_port}"
    ):
        apt(tmp_path / "work", closed.url).update()


@needs_lab
def test_a_version_that_there_is_not_is_named(outside: Server, tmp_path: Path) -> None:
    with pytest.raises(aptmirror.Failed, match=r"kubelet=9\.9\.9"):
        synced(apt(tmp_path / "work", outside.url), tmp_path / "mirror", ["kubelet=9.9.9-1.1"])


@needs_lab
def test_where_the_base_system_is_not_to_be_had_all_else_comes(
    outside: Server, tmp_path: Path
) -> None:
    """conntrack needs the C library, which the lab's Debian leaves out."""
    made = apt(tmp_path / "work", outside.url)
    assert synced(made, tmp_path / "mirror", ["conntrack"], KUBERNETES) >= 3
    assert list(made.partial) == ["conntrack"]
    found = {path.name.partition("_")[0] for path in (tmp_path / "mirror").rglob("*.deb")}
    assert {"conntrack", "libnetfilter-conntrack3", "kubectl"} <= found
    outside.asked.clear()
    again = apt(tmp_path / "work", outside.url)
    assert synced(again, tmp_path / "mirror", ["conntrack"], KUBERNETES) == 0
    assert [path for path in outside.asked if path.endswith(".deb")] == []


@needs_lab
def test_an_image_is_there_when_its_last_layer_is(tmp_path: Path) -> None:
    storage, image = tmp_path / "registry", "registry.k8s.io/kube-proxy:v1.20.2"
    shutil.copytree(LAB / "registry", storage, copy_function=shutil.copy)
    assert imagemirror.there(storage, image)
    assert not imagemirror.there(storage, "registry.k8s.io/kube-proxy:v1.34.2")
    assert not imagemirror.there(tmp_path / "none", image)
    largest = max(storage.rglob("data"), key=lambda path: path.stat().st_size)
    largest.unlink()
    lost = [name for name in ("kube-proxy", "etcd", "kube-apiserver", "kube-controller-manager")
            for tag in [next((storage / f"docker/registry/v2/repositories/{name}/_manifests/tags").iterdir()).name]
            if not imagemirror.there(storage, f"registry.k8s.io/{name}:{tag}")]  # fmt: skip
    (
        storage / "docker/registry/v2/repositories/kube-proxy/_manifests/tags/v1.20.2/current/link"
    ).unlink()
    assert not imagemirror.there(storage, image)
    assert len(lost) <= 1, "one layer is of one image"


@pytest.mark.parametrize(
    ("image", "path", "source"),
    [
        ("docker.io/library/nginx:1", "library/nginx:1", "docker://docker.io/library/nginx:1"),
        ("registry.k8s.io/pause:3.9", "pause:3.9", "docker://10.0.0.1:5000/pause:3.9"),
        ("10.0.0.9:5000/web:1", "web:1", "docker://10.0.0.9:5000/web:1"),
        ("library/nginx:1", "library/nginx:1", "docker://docker.io/library/nginx:1"),
    ],
)
def test_an_image_is_called_in_the_mirror_as_containerd_asks_for_it(
    image: str, path: str, source: str
) -> None:
    endpoints = {"registry.k8s.io": "http://10.0.0.1:5000"}
    assert imagemirror.path(image) == path
    assert imagemirror.source(image, endpoints) == (source, "pause" not in image)


def test_a_digest_means_all_architectures() -> None:
    image = "docker.io/library/nginx:1@sha256:" + "0" * 64
    argv = imagemirror.copy(image, "127.0.0.1:1", {})
    assert "--all" in argv
    assert argv[-1] == "docker://127.0.0.1:1/library/nginx:1"
    assert "--all" not in imagemirror.copy("docker.io/library/nginx:1", "127.0.0.1:1", {})


@pytest.mark.parametrize("url", ["http://host/../etc/passwd", "file:///etc/passwd", "http:///x"])
def test_no_address_leads_out_of_the_mirror(url: str) -> None:
    with pytest.raises(aptmirror.Failed):
        aptmirror.place(url)


def test_an_address_is_a_folder_of_the_mirror_and_a_file_of_apts() -> None:
    base = "https://pkgs.k8s.io/core:/stable:/v1.34/deb/"
    assert aptmirror.place(base) == "pkgs.k8s.io/core:/stable:/v1.34/deb/"
    assert aptmirror._listed(base) == "pkgs.k8s.io_core:_stable:_v1.34_deb_"
    assert aptmirror._listed("http://h/a_b~c/") == "h_a%5fb%7ec_"


# ---- the runner ----------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The runner on the master; the pillar may be changed."""
    pillar = merged(DEFAULTS, rack_of(["storage", "master"], {}))
    utils = {f"rackspec.{name}": getattr(rackspec, name) for name in ("check", "settings")}
    opts = {"id": "nfs1_master", "saltberry": {"state_dir": str(tmp_path / "state")}}
    monkeypatch.setattr(mirror, "__salt__", {"pillar.show_pillar": lambda _: pillar}, raising=False)
    monkeypatch.setattr(mirror, "__utils__", utils, raising=False)
    monkeypatch.setattr(mirror, "__opts__", opts, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    yield pillar


def test_the_list_needs_no_internet_and_says_what_is_not_known_yet(
    runner: dict[str, Any], tmp_path: Path
) -> None:
    told = mirror.list_(folder=str(tmp_path / "mirror"))
    assert told["ok"] is True
    assert "kubelet=1.34.2-1.1" in told["packages"]
    assert "registry.k8s.io/kube-apiserver:v1.34.2" in told["images"]
    assert "etcd, coredns and pause" in told["note"]
    assert not any("registry:2" in image for image in told["images"]), "the registry is off"
    for cni, wanted in (("routed", False), ("flannel", True)):
        runner["kubernetes"]["cni"] = cni
        images = mirror.list_(folder=str(tmp_path / "mirror"))["images"]
        assert any("flannel" in image for image in images) is wanted
    runner["services"]["registry"]["enabled"] = runner["services"]["storage"]["enabled"] = True
    runner["services"]["storage"]["volumes"] = {"registry": {"size": "1G"}}
    told = mirror.list_(version="1.35.1", folder=str(tmp_path / "mirror"))
    assert "docker.io/library/registry:2.8.3" in told["missing"]
    assert "registry.k8s.io/kube-proxy:v1.35.1" in told["images"]
    assert not any("nfsplugin" in image for image in told["images"]), "dynamic volumes are off"
    flannel = {image for image in told["images"] if "flannel" in image}
    assert len(flannel) == 2, "the pods' network, and its plugin"
    runner["kubernetes"]["cni"] = "routed"
    assert not flannel & set(mirror.list_(folder=str(tmp_path / "mirror"))["images"])
    assert not (tmp_path / "mirror").exists()


@needs_lab
def test_kubeadm_itself_says_which_images_are_of_its_version(
    runner: dict[str, Any], tmp_path: Path
) -> None:
    runner["kubernetes"]["version"] = "1.20.2"
    (kubeadm,) = (LAB / "apt/kubernetes").rglob("kubeadm_*.deb")
    (tmp_path / "apt").mkdir()
    shutil.copy(kubeadm, tmp_path / "apt")
    told = mirror.list_(folder=str(tmp_path))
    assert "note" not in told
    assert {"registry.k8s.io/pause:3.2", "registry.k8s.io/coredns:1.7.0"} <= set(told["images"])


def test_test_mode_tells_and_leaves_no_trace(runner: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    told = mirror.sync(folder=str(folder), test=True)
    assert (told["ok"], told["wheels"]) == (True, True)
    assert "containerd" in told["packages"]
    assert not folder.exists()
    assert not (tmp_path / "state").exists()
    (folder / "apt").mkdir(parents=True)
    (folder / "apt/containerd_1.6.20_arm64.deb").write_text("")
    assert "containerd" not in mirror.sync(folder=str(folder), test=True)["packages"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mirror": {"enabled": False}}, "this rack has no mirror"),
        ({"nodes": {"nfs1": {"roles": ["storage"]}, "m": {"ip": "192.168.1.9", "roles": ["master"]}}},
         "the mirror is on nfs1"),
        ({"kubernetes": {"version": "2"}}, "kubernetes.version"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_fetched(
    runner: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    changed = merged(runner, change)
    runner.clear()
    runner.update(changed)
    told = mirror.sync(folder=str(tmp_path / "mirror"))
    assert (told["ok"], told["retcode"]) == (False, 1)
    assert words in told["reason"]
    assert not (tmp_path / "mirror").exists()


def test_a_full_disk_is_refused_with_what_is_needed(
    runner: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    told = mirror.sync(folder=str(tmp_path / "mirror"))
    assert "has 0.1 GiB free and 1.0 are needed" in told["reason"]
    assert "relative path" in mirror.sync(folder="mirror")["reason"]


def test_only_one_is_at_work(runner: dict[str, Any], tmp_path: Path) -> None:
    with mirror._alone():
        told = mirror.sync(folder=str(tmp_path / "mirror"))
    assert told["reason"] == "another mirror.sync is at work; wait for it"


def test_the_list_has_what_the_states_install() -> None:
    """Whatever a state names as a package; those of the pillar and of Kubernetes come by themselves."""
    rack = merged(DEFAULTS, rack_of(["worker"], {}))
    known = {name.partition("=")[0] for group in mirror._groups(rack) for name in group}
    named: set[str] = set()
    for sls in SALT.rglob("*.sls"):
        for line in sls.read_text().splitlines():
            if "- packages: [" in line:
                named |= {
                    word.strip() for word in line.partition("[")[2].rpartition("]")[0].split(",")
                }
    assert {"containerd", "nftables"} <= named
    assert named - known == set()
