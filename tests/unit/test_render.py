"""Every SLS compiles, for every role and for pillars that differ where the SLS files branch.

Salt's own loaders, file client and renderers do the work. Last, a highstate in test mode on this very machine: it
must end without a failed state on a node that has nothing of all that yet.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.loader
import yaml
from salt.exceptions import CommandExecutionError

from tests.unit.rendering import KEY, PILLARS, ROLES, SALT, merged, minion_opts

pytestmark = pytest.mark.usefixtures("kernel_with_nfs")
# Orchestrations are rendered by the master, with a pillar of their own.
SLS = sorted(
    ".".join(path.relative_to(SALT).with_suffix("").parts).removesuffix(".init")
    for path in SALT.rglob("*.sls")
    if path.name != "top.sls" and "orch" not in path.parts
)


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that makes Salt's modules for a minion with these roles, this pillar, these grains."""

    def make(roles: list[str], pillar: dict[str, Any], **grains: Any) -> Any:
        opts = minion_opts(tmp_path_factory.mktemp("minion"), roles, pillar, **grains)
        utils = salt.loader.utils(opts)
        return SimpleNamespace(modules=salt.loader.minion_mods(opts, utils=utils))

    return make


Low = list[dict[str, Any]]


@pytest.fixture(scope="module")
def highstate(loaders: Callable[..., Any]) -> Callable[..., Low]:
    """Return a function that compiles the highstate of these roles with one of PILLARS, once."""

    @functools.cache
    def compiled(roles: str, name: str) -> Low:
        low = loaders(roles.split("-"), PILLARS[name]).modules.state.show_lowstate()
        assert all(isinstance(chunk, dict) for chunk in low), low
        return list(low)

    def for_roles(roles: list[str], name: str = "defaults") -> Low:
        return compiled("-".join(roles), name)

    return for_roles


def values(low: Low, state_id: str) -> dict[str, Any]:
    """Return the one state with this id."""
    (chunk,) = [chunk for chunk in low if chunk["__id__"] == state_id]
    return chunk


def test_every_sls_is_found() -> None:
    assert {"roles.worker", "base", "containerd.configured", "cni.routed"} <= set(SLS)
    assert not list(SALT.rglob("__init__.py")), "would shadow the salt library"


@pytest.mark.parametrize("name", PILLARS)
def test_every_sls_compiles(loaders: Any, name: str) -> None:
    """Also those that no role includes, all in one compile: state ids are unique."""
    low = loaders(["worker"], PILLARS[name]).modules.state.show_low_sls(SLS)
    assert all(isinstance(chunk, dict) for chunk in low), low
    assert {"cni.routed", "cni.absent", "base.kernel"} <= {chunk["__sls__"] for chunk in low}


def test_every_component_stands_on_its_own(loaders: Any) -> None:
    """The master applies single ones: cni when nodes come or go, kubeadm.joined with a ticket."""
    modules = loaders(["worker"], {}).modules
    for sls in ("base", "containerd", "kubernetes", "kubeadm.initialized", "kubeadm.joined", "cni",
                "mirror", "kubeconfig", "salt_master", "salt_minion", "nfs.server", "nfs.client",
                "container_storage", "container_storage.mounted", "docker", "system", "users", "sshd", "clock",
                "journal", "updates", "watchdog", "wifi", "firmware", "drift",
                "page", "firewall", "kubelet", "docker.absent", "kubernetes.absent", "reconcile.absent"):  # fmt: skip
        low = modules.state.show_low_sls(sls)
        assert low
        assert all(isinstance(chunk, dict) for chunk in low), low


def test_a_node_joins_after_all_that_a_member_needs_was_done(loaders: Any) -> None:
    low = loaders(["worker"], {}).modules.state.show_low_sls("kubeadm.joined")
    (joined,) = (chunk for chunk in low if chunk["__id__"] == "kubeadm-joined")
    needed = {value for pair in joined["require"] for value in pair.values()}
    assert {"base.kernel", "base.swap", "containerd-running", "kubernetes.installed"} <= needed
    assert low[-1] == joined


@pytest.mark.parametrize("roles", [*ROLES, []], ids=lambda roles: "-".join(roles) or "none")
def test_the_top_file_gives_the_roles_and_nothing_else(loaders: Any, roles: list[str]) -> None:
    top = loaders(roles, {}).modules.state.show_top()
    assert top.get("base", []) == [f"roles.{role}" for role in roles]


@pytest.mark.parametrize("name", PILLARS)
@pytest.mark.parametrize("roles", ROLES, ids="-".join)
def test_the_highstate_of_every_role_compiles(highstate: Any, roles: list[str], name: str) -> None:
    low = highstate(roles, name)
    ids = {chunk["__id__"] for chunk in low}
    assert "base-hosts" in ids
    # A role that a node has not is never undone by a highstate.
    on_request = {"kubeadm", "cni", "docker", "kubernetes", "reconcile"}
    assert not {f"{name}.absent" for name in on_request} & {chunk["__sls__"] for chunk in low}
    for chunk in low:
        # One of these loads every state and execution module (33 % of a highstate).
        assert not {"unless", "onlyif", "creates"} & chunk.keys(), chunk
        assert chunk["state"] != "cmd", chunk


def test_docker_is_not_removed_where_the_pillar_wants_it(loaders: Any) -> None:
    wanted = loaders(["worker"], {"docker": {"enabled": True}}).modules.state.show_low_sls(
        "docker.absent"
    )
    assert (wanted[0]["__id__"], wanted[0]["failhard"]) == ("docker-wanted", True)
    low = loaders(["worker"], {}).modules.state.show_low_sls("docker.absent")
    assert "docker-wanted" not in {chunk["__id__"] for chunk in low}
    order = [chunk["__id__"] for chunk in low]
    assert order.index("docker-docker.service-dead") < order.index("docker-packages-removed")
    assert values(low, "docker-packages-removed")["fun"] == "removed"


def test_roles_hold_what_they_should(highstate: Any) -> None:
    ids = {"-".join(roles): {chunk["__id__"] for chunk in highstate(roles)} for roles in ROLES}
    assert {"base-swap", "containerd-running", "kubeadm-joined", "cni-chosen"} <= ids["worker"]
    assert {"base-swap", "kubeadm-initialized", "cni-flannel-applied"} <= ids["control_plane"]
    storage = ids["storage-master"]
    assert {"base-hosts", "mirror-nginx-running", "kubeconfig-admin"} <= storage
    assert not {"base-swap", "containerd-running", "kubernetes-packages"} & storage
    assert "kubeadm-joined" not in ids["control_plane"]


def test_what_is_written_for_an_air_gapped_rack(highstate: Any) -> None:
    low = highstate(["worker"], "air-gapped")
    source = values(low, "kubernetes-source")["contents"]
    assert dict(line.split(": ") for line in source.splitlines()[1:]) == {
        "Types": "deb",
        "URIs": "http://192.168.1.10/apt/kubernetes/",
        "Suites": "stable",
        "Components": "main",
        "Signed-By": "/etc/apt/keyrings/saltberry-kubernetes.gpg",
    }
    own = values(low, "containerd-registry-192.168.1.10:5000")["contents"]
    assert 'server = "http://192.168.1.10:5000"' in own
    mirror = values(low, "containerd-registry-docker.io")
    assert mirror["name"] == "/etc/containerd/certs.d/docker.io/hosts.toml"
    assert "server" not in mirror["contents"]
    assert '[host."http://192.168.1.10:5000"]' in mirror["contents"]
    pinned = values(low, "kubernetes-packages")["packages"]
    assert set(pinned.values()) == {"1.20.2-1.1"}


@pytest.mark.parametrize(
    ("name", "pause"),
    [("defaults", "registry.k8s.io/pause:3.10.1"), ("air-gapped", "192.168.1.10:5000/pause:3.2")],
)
def test_the_containerd_configuration_is_toml(highstate: Any, name: str, pause: str) -> None:
    low = highstate(["worker"], name)
    files = [chunk for chunk in low if chunk.get("name", "").endswith(".toml")]
    parsed = {chunk["__id__"]: tomllib.loads(chunk["contents"]) for chunk in files}
    cri = parsed["containerd-config"]["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == pause
    assert cri["registry"]["config_path"] == "/etc/containerd/certs.d"
    assert isinstance(cri["restrict_oom_score_adj"], bool)
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True


@pytest.mark.parametrize(("name", "listen"), [("defaults", None), ("air-gapped", "192.168.1.10")])
def test_the_mirror_is_for_the_rack(highstate: Any, name: str, listen: str | None) -> None:
    low = highstate(["storage", "master"], name)
    site = values(low, "mirror-nginx-site")["contents"]
    assert "allow 192.168.1.0/24;" in site
    assert "deny all;" in site
    assert f"listen {listen or '*'}:80;" in site
    registry = yaml.safe_load(values(low, "mirror-registry-config")["contents"])
    assert registry["http"]["addr"] == f"{listen or ''}:5000"
    assert registry["storage"]["maintenance"]["readonly"]["enabled"] is True


def test_what_is_pulled_through_is_for_the_rack_and_each_registry_has_a_process(
    highstate: Any,
) -> None:
    low = highstate(["storage", "master"], "what one pulled the others get")
    site = values(low, "saltberry-pull-through-nginx-site")["contents"]
    assert "allow 192.168.1.0/24;" in site and "deny all;" in site
    for host, upstream in (("docker.io", "https://registry-1.docker.io"),
                           ("ghcr.io", "http://10.1.2.3:5000"), ("quay.io", "https://quay.io")):  # fmt: skip
        config = yaml.safe_load(values(low, f"saltberry-pull-through-{host}-config")["contents"])
        assert config["proxy"] == {"remoteurl": upstream}
        # With it what was pulled would be gone after a week.
        assert "delete" not in config["storage"]
        assert f"server unix:{config['http']['addr']};" in site
        assert f"{host} {host};" in site
    ids = {chunk["__id__"] for chunk in highstate(["storage", "master"])}
    assert "saltberry-pull-through-nginx-site-absent" in ids
    assert "saltberry-pull-through-nginx-site" not in ids


def test_a_registry_that_is_set_up_and_not_wanted_is_found(
    loaders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = loaders(["storage"], {}).modules.pull_through.left
    monkeypatch.setitem(left.__globals__, "CONFIGS", tmp_path / "none")
    assert left() == []
    monkeypatch.setitem(left.__globals__, "CONFIGS", tmp_path)
    for host in ("docker.io", "quay.io"):
        (tmp_path / f"{host}.yml").touch()
    assert left(["docker.io"]) == ["quay.io"]


MASTER = ["storage", "master"]


def test_the_rack_is_checked_by_a_timer_on_the_master_alone(highstate: Any) -> None:
    assert values(highstate(MASTER), "drift-timer-running")["enable"] is True
    assert not {"drift-timer-running", "drift-timer-dead"} & set(order(highstate(["worker"])))
    low = highstate(MASTER, "no checks")
    assert values(low, "drift-timer-dead")["name"] == "saltberry-drift.timer"
    assert "drift-timer-running" not in order(low)


def test_the_page_is_off_and_nginx_has_no_site_for_it_unless_asked_for(highstate: Any) -> None:
    assert values(highstate(MASTER), "page-nginx-site-absent")["fun"] == "absent"
    assert "page-nginx-site" not in order(highstate(MASTER))
    low = highstate(MASTER, "a page for the home")
    site = values(low, "page-nginx-site")["contents"]
    assert "allow 192.168.1.0/24;" in site
    assert site.index("deny all;") > site.index("allow 127.0.0.0/8;")
    assert "auth_basic_user_file /etc/nginx/saltberry-page.htpasswd;" in site
    assert "listen 8080;" in site
    assert "default-src 'none'" in site
    assert values(low, "page-passwords")["fun"] == "exists"


def order(low: Low) -> list[str]:
    """Return the ids of a highstate in the order in which they run, as far as that is fixed."""
    return [chunk["__id__"] for chunk in sorted(low, key=lambda chunk: chunk["order"])]


def test_each_nodes_folder_is_for_it_alone(loaders: Any) -> None:
    made = loaders(["storage", "master"], PILLARS["images on the share"])
    exports = made.modules.nfs.exports().splitlines()[1:]
    clients = {line.split()[0]: line.split()[1:] for line in exports}
    assert list(clients) == [
        "/srv/nfs/nodes/cp1", "/srv/nfs/nodes/pi-01", "/srv/nfs/nodes/pi-99",
        "/srv/nfs/volumes/media", "/srv/nfs/volumes/work",
    ]  # fmt: skip
    assert [client.split("(")[0] for client in clients["/srv/nfs/nodes/pi-01"]] == ["192.168.1.21"]
    assert [client.split("(")[0] for client in clients["/srv/nfs/nodes/pi-99"]] == ["192.168.1.99"]
    everyone = [client.split("(")[0] for client in clients["/srv/nfs/volumes/work"]]
    assert everyone == ["192.168.1.11", "192.168.1.21", "192.168.1.99"]
    uids = set()
    for path, entries in clients.items():
        for entry in entries:
            options = entry.split("(")[1].rstrip(")").split(",")
            assert {"root_squash", "all_squash", "sync", "sec=sys"} <= set(options)
            assert "mountpoint=/srv/nfs" in options
            assert ("ro" if path.endswith("media") else "rw") in options
            (uid,) = [option for option in options if option.startswith("anonuid=")]
            uids.add((path if "/nodes/" in path else "volumes", uid))
    assert len(uids) == len({uid for _, uid in uids}) == 4
    folders = made.modules.nfs.folders()
    # pi-02 has no address yet, but has its folder
    assert folders["/srv/nfs/nodes/pi-02"]["mode"] == "0700"
    for path, uid in uids:
        if path != "volumes":
            assert folders[path] == {"uid": int(uid.removeprefix("anonuid=")), "mode": "0700"}
    assert folders["/srv/nfs/nodes"] == {"uid": 0, "mode": "0711"}


def test_a_share_without_a_disk_is_a_plain_folder(loaders: Any, highstate: Any) -> None:
    assert "mountpoint" not in loaders(["storage", "master"], {}).modules.nfs.exports()
    ids = {chunk["__id__"] for chunk in highstate(["storage", "master"])}
    assert {"nfs-disk", "nfs-exports", "nfs-server-running"} <= ids
    assert "nfs-disk-formatted" not in ids


@pytest.mark.parametrize(
    ("name", "why"),
    [("a share by other means", "manage_mounts is false"), ("no share", "enabled is false")],
)
def test_without_a_managed_share_it_says_why(highstate: Any, name: str, why: str) -> None:
    low = highstate(["storage", "master"], name)
    assert why in values(low, "nfs-server-not-here")["text"]
    assert not {"nfs-exports", "nfs-server-packages"} & set(order(low))
    low = highstate(["worker"], name)
    assert why in values(low, "nfs-client-not-here")["text"]
    assert "nfs-awaited" not in order(low)


def test_a_kernel_without_nfs_is_told_of(
    loaders: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "nfs" in Path("/proc/filesystems").read_text().split():
        pytest.fail("this kernel has NFS loaded; run this where it has not")
    (tmp_path / "modprobe").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "modprobe").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    nfs = loaders(["worker"], {}).modules.nfs
    assert nfs.why_not("client") == "this kernel cannot mount NFS"
    assert nfs.why_not("server") == "this kernel has no NFS server (nfsd)"
    backend = loaders(["worker"], PILLARS["images on the share"]).modules.storage_backend
    with pytest.raises(CommandExecutionError, match="cannot be had on this node: this kernel"):
        backend.settings()


def test_a_worker_without_an_address_stays_local_until_it_has_one(loaders: Any) -> None:
    pillar = merged(PILLARS["images on the share"], {"nodes": {"pi-01": {"ip": None}}})
    found = loaders(["worker"], pillar).modules.storage_backend.settings()
    assert found["target"] == "local"
    assert "nodes.pi-01.ip" in found["later"]
    low = loaders(["worker"], pillar).modules.state.show_low_sls("container_storage")
    assert "nodes.pi-01.ip" in values(low, "container-storage-local")["text"]
    assert values(low, "container-storage-managed")["name"] == "local"


def test_share_then_image_then_move_then_engines(highstate: Any) -> None:
    low = highstate(["worker"], "images on the share")
    wanted = ["nfs-mount-/srv/share/node", "container-storage-image", "container-storage-lock",
              "container-storage-check", "container-storage-mounted", "containerd-packages",
              "docker-config", "docker-packages", "containerd-config", "container-storage-managed",
              "containerd-running", "docker-running", "kubernetes-packages"]  # fmt: skip
    assert [each for each in order(low) if each in wanted] == wanted
    mounted = values(low, "container-storage-mounted")
    assert mounted["what"] == "/srv/share/node/containers.img"
    assert {"loop", "discard", "_netdev", "nofail"} <= set(mounted["unit"]["options"])
    assert values(low, "container-storage-managed")["name"] == "/srv/containers"
    assert values(low, "container-storage-image")["size"] == "64G"
    share = values(low, "nfs-mount-/srv/share/node")
    assert share["what"] == "192.168.1.10:/srv/nfs/nodes/pi-01"
    assert (share["state"], share["fun"]) == ("nfs", "mounted")
    assert {"nfsvers=4.2", "hard", "_netdev", "nofail"} <= set(share["unit"]["options"])


def test_a_disk_of_the_nodes_own(highstate: Any) -> None:
    low = highstate(["worker"], "a disk to be formatted")
    mounted = values(low, "container-storage-mounted")
    assert (mounted["name"], mounted["what"]) == ("/srv/containers", "LABEL=engines")
    assert "container-storage-image" not in order(low)
    low = highstate(["storage", "master"], "a disk to be formatted")
    assert order(low).index("nfs-disk-formatted") < order(low).index("nfs-disk")
    assert values(low, "nfs-disk-formatted")["spec"] == "LABEL=share"


def test_pod_data_moves_after_the_engines_and_holds_kubelet(highstate: Any) -> None:
    low = highstate(["worker"], "a disk to be formatted")
    wanted = ["container-storage-managed", "container-storage-/var/lib/kubelet/pods",
              "container-storage-/var/log/pods", "container-storage-kubelet",
              "kubernetes-packages"]  # fmt: skip
    assert [each for each in order(low) if each in wanted] == wanted
    assert values(low, wanted[1])["source"] == "/srv/containers/kubelet-pods"
    assert values(low, wanted[3])["mounts"] == ["/var/lib/kubelet/pods", "/var/log/pods"]
    assert "kubelet.service" in values(low, "container-storage-awaited")["then"]
    ids = set(order(highstate(["worker"])))
    assert not any("pods" in each for each in ids if each.startswith("container-storage"))


def test_the_firewall_is_loaded_before_its_unit_runs(highstate: Any) -> None:
    for roles in ROLES:
        assert "firewall-absent" in order(highstate(roles))
        wanted = ["firewall-packages", "firewall-rules", "firewall-unit", "firewall-running"]
        ids = order(highstate(roles, "nobody but the rack"))
        assert [each for each in ids if each.startswith("firewall-") and each in wanted] == wanted


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own checker")
def test_systemd_finds_no_fault_in_lock_and_check(highstate: Any, tmp_path: Path) -> None:
    low = highstate(["worker"], "images on the share")
    for state_id in ("container-storage-lock", "container-storage-check"):
        chunk = values(low, state_id)
        (tmp_path / chunk["name"]).write_text(chunk["text"])
    files = [str(path) for path in tmp_path.iterdir()]
    argv = ["systemd-analyze", "verify", "--man=no", *files]
    told = subprocess.run(argv, capture_output=True, text=True, check=False).stderr
    assert [line for line in told.splitlines() if str(tmp_path) in line] == []


def test_the_lock_of_the_image_is_for_one(highstate: Any, tmp_path: Path) -> None:
    """The very commands of the unit, twice at once, with real locks."""
    unit = values(highstate(["worker"], "images on the share"), "container-storage-lock")["text"]
    unit = unit.replace("/srv/share/node", str(tmp_path)).replace("%H", "pi-01").replace("$$", "$")
    lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    (tmp_path / "systemd-notify").write_text("#!/bin/sh\necho ready\n")
    (tmp_path / "systemd-notify").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = shlex.split(lines["ExecStart"])
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "ready\n"
            second = subprocess.run(command, env=env, capture_output=True, check=False, timeout=20)
            assert second.returncode == 75
            after = shlex.split(lines["ExecStopPost"])
            told = subprocess.run(
                after, env={**env, "EXIT_STATUS": "75"}, capture_output=True, text=True, check=True
            )
            assert "containers.img is in use by pi-01; one image belongs to one node" in told.stdout
        finally:
            first.kill()
    quiet = subprocess.run(
        after, env={**env, "EXIT_STATUS": "TERM"}, capture_output=True, text=True, check=True
    )
    assert quiet.stdout == ""


def test_an_image_on_a_share_that_somebody_else_brings(highstate: Any) -> None:
    low = highstate(["worker"], "a share by other means")
    assert values(low, "container-storage-image")["name"] == "/srv/share/node/containers.img"
    assert values(low, "container-storage-managed")["name"] == "/srv/containers"


def test_the_master_says_when_a_node_is_drained(loaders: Any) -> None:
    for drained in (True, False):
        pillar = {"container_storage_drained": True} if drained else {}
        low = loaders(["worker"], pillar).modules.state.show_low_sls("container_storage")
        assert values(low, "container-storage-managed")["drained"] is drained


def test_docker_is_only_where_it_is_wanted(highstate: Any) -> None:
    assert not [each for each in order(highstate(["worker"])) if each.startswith("docker")]


def test_people_are_made_with_their_keys_and_rights(highstate: Any, tmp_path: Path) -> None:
    low = highstate(["worker"], "people and their habits")
    keys = values(low, "users-anna-keys")
    assert (keys["name"], keys["contents"], keys["mode"]) == (
        "/home/anna/.ssh/authorized_keys", [KEY], "0600"
    )  # fmt: skip
    assert values(low, "users-anna")["optional_groups"] == ["docker"]
    assert (values(low, "users-ben")["fun"], values(low, "users-gone")["fun"]) == (
        "present",
        "absent",
    )
    assert not {"users-ben-keys", "users-gone-keys"} & set(order(low))
    sudo = values(low, "users-sudo")
    assert "\nanna ALL=(ALL:ALL) NOPASSWD: ALL" in sudo["contents"]
    assert "ben" not in sudo["contents"]
    assert order(low).index("docker-packages") < order(low).index("users-anna")
    assert order(low).index("users-anna-keys") < order(low).index("sshd-hardened")
    if shutil.which("visudo"):
        (tmp_path / "sudoers").write_text(sudo["contents"] + "\n")
        subprocess.run(["visudo", "-cf", str(tmp_path / "sudoers")], check=True)


def test_nobody_is_touched_who_is_not_named(highstate: Any) -> None:
    low = highstate(["worker"])
    assert not [chunk for chunk in low if chunk["state"] in ("user", "group", "ssh_auth")]
    assert values(low, "users-sudo")["fun"] == "absent"


def test_the_journal_and_the_clock_are_as_the_pillar_says(highstate: Any) -> None:
    low = highstate(["worker"], "people and their habits")
    journal = values(low, "journal-config")["contents"].split()
    assert {"Storage=volatile", "RuntimeMaxUse=32M"} <= set(journal)
    assert values(low, "clock-followed")["servers"] == ["192.168.1.1"]
    assert values(low, "clock-timezone")["name"] == "Europe/Berlin"
    assert values(low, "firmware-config")["values"]["gpu_mem"] == 16
    assert values(low, "system-packages")["packages"] == ["htop"]
    # what one node has of its own is laid over it
    low = highstate(["control_plane"], "people and their habits")
    assert "Storage=persistent" in values(low, "journal-config")["contents"]
    assert "system-packages" not in order(low)


@pytest.mark.parametrize("roles", ROLES, ids="-".join)
def test_as_the_image_has_it_nothing_of_ours_is_left(highstate: Any, roles: list[str]) -> None:
    low = highstate(roles, "as the image has it")
    for state_id in (
        "updates-config-absent",
        "journal-config-absent",
        "watchdog-config",
        "wifi-awake",
    ):
        for chunk in [chunk for chunk in low if chunk["__id__"] == state_id]:
            assert (chunk["state"], chunk["fun"]) == ("file", "absent")
    assert values(low, "sshd-as-is")["fun"] == "as_is"


@pytest.mark.skipif(not shutil.which("apt-config"), reason="needs apt's own parser")
def test_apt_understands_what_security_updates_are() -> None:
    path = SALT / "updates/files/saltberry-updates"
    argv = ["apt-config", "-c", str(path), "dump"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    origins = [line for line in told.splitlines() if "Origins-Pattern::" in line]
    assert len(origins) == 3
    assert all("ecurity" in line for line in origins)
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in told
    for name in ("kube", "containerd", "docker", "runc"):
        assert f'Unattended-Upgrade::Package-Blacklist:: "{name}";' in told


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own checker")
def test_systemd_finds_no_fault_in_the_pruning(highstate: Any, tmp_path: Path) -> None:
    low = highstate(["worker"], "people and their habits")
    for state_id in ("docker-prune-service", "docker-prune-timer"):
        chunk = values(low, state_id)
        name = Path(chunk["name"]).name
        # the checker wants the program to be there
        (tmp_path / name).write_text(
            chunk["contents"].replace("/usr/bin/docker", "/bin/true") + "\n"
        )
    assert "until=336h" in values(low, "docker-prune-service")["contents"]
    argv = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
    told = subprocess.run(argv, capture_output=True, text=True, check=False).stderr
    assert [line for line in told.splitlines() if str(tmp_path) in line] == []


def test_a_storage_node_that_runs_pods_binds_its_own_folder(loaders: Any) -> None:
    pillar = merged(
        PILLARS["images on the share"], {"nodes": {"nfs1": {"roles": ["storage", "worker"]}}}
    )
    rack = loaders(["storage", "master"], pillar)
    (node, *_) = rack.modules.nfs.mounts()
    assert node["what"] == "/srv/nfs/nodes/nfs1"
    assert node["unit"]["options"][0] == "bind"
    assert "/srv/nfs/nodes/nfs1 " not in rack.modules.nfs.exports()


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="needs Debian's dpkg")
@pytest.mark.parametrize(
    "name",
    [
        "air-gapped",
        "charts and web services",
        "images on the share",
        "people and their habits",
        "as the image has it",
    ],
)
@pytest.mark.parametrize("roles", ROLES, ids="-".join)
def test_a_test_run_on_a_blank_node_fails_nowhere(
    loaders: Any, roles: list[str], name: str
) -> None:
    blank = {**PILLARS[name], "cluster": {}}
    returned = loaders(roles, blank).modules.state.apply(test=True).values()
    assert [ret for ret in returned if ret["result"] is False] == []
    assert any(ret["result"] is None for ret in returned)
