"""What the lab builds from: the cache, packages and images, as far as no root is needed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from lab import binaries, host, images, packages, rootfs, wheels
from lab.images import Image
from lab.store import Store, digest, remove_tree, tree_contents


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    # Looking for containers of killed builds needs root and podman; lab tests do that.
    monkeypatch.setattr(host, "remove_containers", lambda labels: 0)
    return Store(tmp_path / "cache")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "programs"
    directory.mkdir()
    names = ("kubelet", "kubeadm", "kubectl", "crictl", "kube-apiserver", "pause")
    for name in names:
        (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
    return directory


class TestStore:
    def test_builds_once(self, store: Store) -> None:
        built = []

        def build(partial: Path) -> None:
            built.append(partial)
            (partial / "file").write_text("content")

        first = store.ensure("thing", {"version": 1}, build, "making a thing")
        second = store.ensure("thing", {"version": 1}, build, "making a thing")
        assert first == second
        assert (first / "file").read_text() == "content"
        assert len(built) == 1
        assert store.seconds["thing"] < 1

    def test_other_inputs_are_another_artefact(self, store: Store) -> None:
        first = store.ensure("thing", {"version": 1}, lambda partial: None, "")
        second = store.ensure("thing", {"version": 2}, lambda partial: None, "")
        assert first != second
        assert first.is_dir()

    def test_failed_build_leaves_nothing_that_looks_whole(self, store: Store) -> None:
        def fail(partial: Path) -> None:
            (partial / "half").write_text("")
            raise host.StepFailed("making a thing")

        def succeed(partial: Path) -> None:
            (partial / "whole").write_text("")

        with pytest.raises(host.StepFailed):
            store.ensure("thing", {}, fail, "")
        assert not list(store.cache.glob("thing-*"))
        result = store.ensure("thing", {}, succeed, "")
        assert [file.name for file in result.iterdir()] == ["whole"]

    def test_two_at_once_build_once(self, store: Store) -> None:
        built = []

        def build(partial: Path) -> None:
            built.append(partial)
            time.sleep(0.2)

        threads = [
            threading.Thread(target=lambda: store.ensure("thing", {}, build, "")) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(built) == 1

    def test_digest_does_not_depend_on_order(self) -> None:
        assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
        assert digest({"a": 1}) != digest({"a": 2})

    def test_tree_contents_sees_mode_and_content(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        file = tmp_path / "a" / "b"
        file.write_text("1")
        file.chmod(0o644)
        before = tree_contents(tmp_path)
        file.chmod(0o755)
        after = tree_contents(tmp_path)
        assert list(before) == ["a/b"]
        assert before != after

    def test_remove_tree_of_nothing(self, tmp_path: Path) -> None:
        remove_tree(tmp_path / "nothing")


class TestRun:
    def test_output_log_and_lines(self, tmp_path: Path) -> None:
        seen: list[str] = []
        log = tmp_path / "logs" / "log"
        said = host.run(
            ["sh", "-c", "cat; echo two >&2"], step="s", log=log, on_line=seen.append, stdin="one\n"
        )
        assert said == "one\ntwo\n"
        assert seen == ["one", "two"]
        assert log.read_text().endswith("one\ntwo\n")

    def test_failure_names_step_code_and_last_lines(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with pytest.raises(host.StepFailed) as caught:
            host.run(["sh", "-c", "seq 100; exit 3"], step="counting", log=log)
        text = str(caught.value)
        assert "counting (exit code 3)" in text
        assert "100" in text.splitlines()[-2]
        assert "    1" not in text.splitlines()
        assert str(log) in text

    def test_missing_program(self) -> None:
        with pytest.raises(host.StepFailed, match="counting: no-such-program is not installed"):
            host.run(["no-such-program"], step="counting")

    def test_command_that_does_not_read_its_input(self) -> None:
        host.run(["true"], step="s", stdin="x" * 1_000_000)


class TestHost:
    @pytest.mark.parametrize(
        ("mounts", "unified"),
        [
            ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", True),
            (
                "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
                False,
            ),
            ("proc /proc proc rw 0 0\n", False),
        ],
    )
    def test_cgroup_v2(self, mounts: str, unified: bool) -> None:
        assert host.cgroup_v2(mounts) is unified

    def test_ulimits_are_what_this_process_may_set(self) -> None:
        flags = host.ulimit_flags()
        assert flags[::2] == ["--ulimit", "--ulimit"]
        for flag in flags[1::2]:
            soft, hard = flag.split("=")[1].split(":")
            assert soft == hard
            assert 0 < int(hard) <= 1_048_576

    def test_scratch_file(self) -> None:
        path = host.scratch_file("secret", 0o600)
        try:
            assert path.read_text() == "secret"
            assert path.stat().st_mode & 0o777 == 0o600
        finally:
            path.unlink()


class TestDebian:
    def test_sources(self) -> None:
        text = rootfs.Debian("http://mirror.example/debian").sources(
            signed_by="/k.gpg", source=True
        )
        lines = text.splitlines()
        assert lines[0] == "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main"
        assert (
            "deb-src [signed-by=/k.gpg] http://mirror.example/debian-security bookworm-security main"
            in lines
        )
        assert len(lines) == 6

    def test_units_the_node_enables_are_there(self) -> None:
        units = rootfs.NODE_FILES / "etc/systemd/system"
        for unit in rootfs._NODE_ENABLED:
            assert (units / unit).is_file()

    def test_blank_node_has_nothing_that_saltberry_installs(self) -> None:
        assert not {"containerd", "kubelet", "salt-minion", "iptables", "nginx-light"} & set(
            rootfs.NODE_PACKAGES
        )


class TestPackages:
    @pytest.fixture
    def made(self, programs: Path, tmp_path: Path) -> dict[str, packages.Package]:
        plugins = tmp_path / "cni"
        plugins.mkdir()
        for name in ("bridge", "host-local"):
            (plugins / name).write_text("")
        found = packages.kubernetes_packages("1.20.2", programs, plugins, "1.1.1")
        return {package.name: package for package in found}

    def test_names_and_versions_are_upstreams(self, made: dict[str, packages.Package]) -> None:
        assert {name: package.version for name, package in made.items()} == {
            "kubelet": "1.20.2-1.1",
            "kubeadm": "1.20.2-1.1",
            "kubectl": "1.20.2-1.1",
            "cri-tools": "1.20.0-1.1",
            "kubernetes-cni": "1.1.1-1.1",
        }

    def test_layout(self, made: dict[str, packages.Package]) -> None:
        assert "/usr/lib/systemd/system/kubelet.service" in made["kubelet"].files
        assert list(made["kubeadm"].files) == [
            "/usr/bin/kubeadm",
            "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
        ]
        assert list(made["kubernetes-cni"].files) == [
            "/opt/cni/bin/bridge",
            "/opt/cni/bin/host-local",
        ]
        drop_in = str(
            made["kubeadm"].files["/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"]
        )
        assert "EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n" in drop_in
        assert all(line[0] in "[E#" for line in drop_in.splitlines())

    def test_every_dependency_can_be_had(self, made: dict[str, packages.Package]) -> None:
        wanted = {entry.split()[0] for package in made.values() for entry in package.depends}
        debian = {name for group in packages.NODE_PACKAGES.values() for name in group}
        assert wanted <= set(made) | debian | {"libc6"}

    @pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")
    def test_dpkg_takes_it(self, made: dict[str, packages.Package], tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        made["kubelet"].unpack(tree)
        deb = tmp_path / made["kubelet"].file_name
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True)
        fields = subprocess.run(
            ["dpkg-deb", "--field", deb, "Package", "Version"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert fields == "Package: kubelet\nVersion: 1.20.2-1.1\n"
        listing = subprocess.run(
            ["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True
        ).stdout
        program = next(line for line in listing.splitlines() if line.endswith("./usr/bin/kubelet"))
        assert program.startswith("-rwxr-xr-x root/root")

    def test_only_one_version_can_be_built(self, store: Store) -> None:
        with pytest.raises(host.StepFailed, match=r"1\.34\.2"):
            binaries.ensure(store, None, "1.34.2")  # type: ignore[arg-type]


class TestImages:
    WANTED = (
        "kube-apiserver:v1.20.2",
        "kube-controller-manager:v1.20.2",
        "kube-scheduler:v1.20.2",
        "kube-proxy:v1.20.2",
        "pause:3.2",
        "etcd:3.4.13-0",
        "coredns:1.7.0",
    )

    def test_all_that_kubeadm_wants_and_one_for_tests(self) -> None:
        made = images.definitions(self.WANTED)
        assert [image.name for image in made] == [*self.WANTED, "busybox:lab"]

    def test_unknown_image(self) -> None:
        with pytest.raises(host.StepFailed, match="newthing:v1"):
            images.definitions(["newthing:v1"])

    def _write(self, directory: Path) -> Path:
        tree = directory / "tree"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/tool").write_text("tool")
        (tree / "bin/tool").chmod(0o755)
        (tree / "bin/link").symlink_to("tool")
        archive = directory / "image.tar"
        image = Image("tool:v1", {}, entrypoint=("/bin/tool",), command=("--help",))
        images.write_archive(image, tree, archive)
        return archive

    def test_archive_is_the_same_from_the_same_files(self, tmp_path: Path) -> None:
        first = self._write(tmp_path / "one")
        time.sleep(0.01)
        second = self._write(tmp_path / "two")
        assert first.read_bytes() == second.read_bytes()

    def test_archive_is_consistent(self, tmp_path: Path) -> None:
        with tarfile.open(self._write(tmp_path)) as tar:
            files = {entry.name: tar.extractfile(entry) for entry in tar.getmembers()}
            content = {name: file.read() for name, file in files.items() if file is not None}
        manifest = json.loads(content["manifest.json"])[0]
        config = content[manifest["Config"]]
        layer = content[manifest["Layers"][0]]
        assert manifest["RepoTags"] == ["tool:v1"]
        assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
        parsed = json.loads(config)
        assert parsed["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
        assert parsed["config"]["Entrypoint"] == ["/bin/tool"]
        assert parsed["config"]["Cmd"] == ["--help"]


class TestPipSettings:
    def test_environment_and_local_places(self, tmp_path: Path) -> None:
        index = tmp_path / "pypi" / "simple"
        index.mkdir(parents=True)
        files = tmp_path / "wheels"
        files.mkdir()
        home = tmp_path / "home"
        config = home / ".config/pip/pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text(
            f"[global]\nextra-index-url = file://{index} https://pypi.example{files}/x\n"
        )
        variables = {
            "PIP_FIND_LINKS": f"{files} /no/such/place",
            "PATH": "/bin",
            "PIP_CERT": "/etc/x.pem",
        }
        mounts, environment = wheels.pip_settings(variables, home)
        assert environment == {key: variables[key] for key in ("PIP_FIND_LINKS", "PIP_CERT")}
        assert mounts[config] == "/root/.config/pip/pip.conf:ro"
        assert mounts[tmp_path / "pypi"] == f"{tmp_path}/pypi:ro"
        assert mounts[files] == f"{files}:ro"
        assert Path("/bin") not in mounts
        assert Path("/no/such/place") not in mounts
        assert all(target.endswith(":ro") for target in mounts.values())

    def test_nothing_set(self, tmp_path: Path) -> None:
        _, environment = wheels.pip_settings({}, tmp_path)
        assert environment == {}
