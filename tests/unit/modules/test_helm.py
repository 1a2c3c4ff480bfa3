"""Helm releases on a real API server: the real Helm, fetched from a mirror as on the control plane."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import helm, manifests
from saltberry_ext.states import helm as state
from saltberry_ext.utils import (
    conffiles,
    helm_engine,
    helm_releases,
    kube_programs,
    masking,
)

from tests.unit import built

from . import kube_api

MISSING = kube_api.missing() or (
    "" if built.HELM.is_dir() else "not built yet (./rack build does it): Helm"
)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

REPO = Path(__file__).resolve().parents[3]
CHART = REPO / "docs/examples/chart"
FILES = REPO / "salt/helm/files"
CONTROLLERS = ("namespace", "deployment", "replicaset", "serviceaccount")
REGISTRY = built.newest("services-*/root/usr/bin/docker-registry")
SECRET = "open-sesame-7"
WORKER = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "pi-01"},
    "spec": {"taints": []},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder by HTTP, as the mirror's nginx has it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube_api.Api]:
    with kube_api.running(tmp_path_factory.mktemp("api"), CONTROLLERS) as running:
        yield running


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engine goes; laid there by the first test that wants it."""
    return tmp_path_factory.mktemp("opt")


class Rack:
    """The control plane as a test sees it: pillar, state runs, the cluster."""

    def __init__(self, api: kube_api.Api, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.releases: dict[str, dict[str, Any]] = {}
        self.pillar: dict[str, Any] = {"helm": {"releases": self.releases, "source": None}}

    def want(self, name: str, **settings: Any) -> None:
        self.releases[name] = {"namespace": name, "file": str(CHART), **settings}

    def run(self, function: Any, *args: Any, test: bool = False, **kwargs: Any) -> dict[str, Any]:
        """A state run of its own: what another saw may have changed since."""
        helm.__context__.clear()
        manifests.__context__.clear()
        state.__opts__["test"] = test
        try:
            ret: dict[str, Any] = function(*args, **kwargs)
        finally:
            state.__opts__["test"] = False
        return ret

    def released(self, name: str, test: bool = False) -> dict[str, Any]:
        return self.run(state.released, name, test=test)

    def pruned(self, test: bool = False) -> dict[str, Any]:
        return self.run(state.pruned, "others", keep=list(self.releases), test=test)

    def text(self, name: str) -> str:
        """What the release's page says, on the cluster."""
        shown = r"jsonpath={.data.index\.html}"
        return self.api.kubectl("get", "-n", name, "configmap", name, "-o", shown)

    def objects(self, name: str) -> list[str]:
        kinds = "configmap,secret,service,deployment"
        found = self.api.kubectl(
            "get", "-n", name, kinds, "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name"
        )
        return sorted(found.split())


def _cache_dir(where: str) -> list[str]:
    """What the file server gives: here the checkout's own files."""
    folder = REPO / "salt" / where.removeprefix("salt://")
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture
def rack(
    api: kube_api.Api, opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rack]:
    monkeypatch.setenv("PATH", str(kube_api.BINARIES), prepend=":")
    made = Rack(api, tmp_path)
    parts = {
        "kube_programs": kube_programs, "helm_engine": helm_engine, "masking": masking,
        "helm_releases": helm_releases, "conffiles": conffiles,
    }  # fmt: skip
    utils = {
        f"{name}.{each}": getattr(part, each)
        for name, part in parts.items()
        for each in dir(part)
        if not each.startswith("_")
    }
    utils["helm_engine.ask"] = functools.partial(helm_engine.ask, home=str(tmp_path / "helm-home"))
    salt = {
        **{f"helm.{each}": getattr(helm, each) for each in dir(helm) if not each.startswith("_")},
        **{f"manifests.{each}": getattr(manifests, each) for each in dir(manifests)},
        "cp.get_file_str": lambda path: (REPO / "salt" / path.removeprefix("salt://")).read_text(),
        "cp.cache_dir": _cache_dir,
        "cmd.run_all": lambda argv, **_: (
            vars(subprocess.run(argv, capture_output=True, text=True)) | {"retcode": 0}
        ),
    }
    for module in (helm, manifests):
        monkeypatch.setattr(module, "ADMIN_CONF", api.etc / "admin.conf")
        monkeypatch.setattr(module, "__utils__", utils, raising=False)
        monkeypatch.setattr(module, "__salt__", salt, raising=False)
        monkeypatch.setattr(module, "__context__", {}, raising=False)
    monkeypatch.setattr(helm, "OPT", opt)
    monkeypatch.setattr(helm, "__pillar__", made.pillar, raising=False)
    monkeypatch.setattr(helm, "__opts__", {"id": "cp1"}, raising=False)
    monkeypatch.setattr(state, "__salt__", salt, raising=False)
    monkeypatch.setattr(state, "__opts__", {"test": False}, raising=False)
    yield made
    made.releases.clear()
    if helm.engine():
        made.pruned()


@pytest.fixture
def with_helm(rack: Rack) -> Rack:
    """The control plane after ``helm.installed``."""
    if helm.engine() is None:
        with served(built.HELM.parent) as url:
            rack.pillar["helm"]["source"] = f"{url}/helm"
            done = rack.run(state.installed, "helm")
            rack.pillar["helm"]["source"] = None
        assert done["result"] is True, done["comment"]
    return rack


# --- Helm itself -------------------------------------------------------------------------------------


def test_helm_is_laid_down_once_and_by_its_hash(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm, "OPT", rack.folder / "opt")
    with served(built.HELM.parent) as url:
        rack.pillar["helm"]["source"] = f"{url}/helm/"
        told = rack.run(state.installed, "helm", test=True)
        assert (told["result"], helm.engine()) == (None, None)
        done = rack.run(state.installed, "helm")
    assert (done["result"], done["changes"]) == (True, told["changes"]), done
    folder = Path(str(helm.engine()))
    assert len(list(folder.rglob("*.so*"))) == 1, "the wheel has three copies of 85 MB"
    again = rack.run(state.installed, "helm")
    assert (again["result"], again["changes"]) == (True, {}), "and nobody was asked"
    assert rack.run(state.uninstalled, "helm", test=True)["result"] is None
    assert rack.run(state.uninstalled, "helm")["changes"] == {"removed": [str(folder)]}
    assert rack.run(state.uninstalled, "helm")["changes"] == {}
    assert list((rack.folder / "opt").iterdir()) == []


def test_a_file_that_is_not_the_locks_is_refused(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm, "OPT", rack.folder / "opt")
    mirror = rack.folder / "mirror"
    mirror.mkdir()
    index = (built.HELM / "index.html").read_text()
    (mirror / "index.html").write_text(index)
    for wheel in built.HELM.glob("*.whl"):
        (mirror / wheel.name).write_bytes(b"something else")
    with served(mirror) as url:
        rack.pillar["helm"]["source"] = url
        ret = rack.run(state.installed, "helm")
        assert ret["result"] is False
        assert "is not the file that helm.lock names" in ret["comment"]
        (mirror / "index.html").write_text(index.replace("sha256=", "sha256=0"))
        assert "has no Helm for" in rack.run(state.installed, "helm")["comment"]
    assert "cannot be had" in rack.run(state.installed, "helm")["comment"]
    assert list((rack.folder / "opt").iterdir()) == []


def test_the_mirror_lacks_helm_until_its_file_is_there_and_whole(rack: Rack) -> None:
    folder = rack.folder / "mirror"
    folder.mkdir()
    assert helm.mirror_lacks(str(folder))
    told = rack.run(state.mirrored, str(folder), test=True)
    assert told["result"] is None
    for path in built.HELM.iterdir():
        shutil.copy(path, folder)
    assert rack.run(state.mirrored, str(folder))["changes"] == {}
    wheel = next(folder.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1])
    assert helm.mirror_lacks(str(folder))


def test_the_mirrors_script_leaves_a_whole_folder_alone_and_names_what_it_cannot_do() -> None:
    script = [sys.executable, str(FILES / "fetch.py"), str(built.HELM)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, "is complete" in done.stdout) == (0, True), done.stderr
    done = subprocess.run([*script, "--machine", "mips"], capture_output=True, text=True)
    assert done.returncode == 2


# --- releases ----------------------------------------------------------------------------------------


def test_what_test_mode_says_is_installed_and_once(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("greet", values={"greeting": "hello"})
    told = rack.released("greet", test=True)
    assert told["result"] is None
    assert set(told["changes"]) == {"ConfigMap greet", "Deployment greet", "Service greet"}
    assert helm.releases() == []
    done = rack.released("greet")
    assert (done["result"], done["changes"]) == (True, told["changes"]), done
    assert "no node takes pods yet" in done["comment"]
    assert rack.text("greet") == "hello"
    for test in (False, True):
        again = rack.released("greet", test=test)
        assert (again["result"], again["changes"]) == (True, {}), again


def test_without_helm_a_run_that_has_nothing_to_do_still_knows_that(
    with_helm: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_helm.want("quiet")
    with_helm.released("quiet")
    with monkeypatch.context() as patch:
        patch.setattr(helm, "engine", lambda: pytest.fail("Helm is 85 MB, and not needed here"))
        assert with_helm.released("quiet")["changes"] == {}


def test_other_values_are_told_as_a_diff_and_upgraded(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("change", values={"greeting": "hello"})
    rack.released("change")
    rack.want("change", values={"greeting": "bye"})
    told = rack.released("change", test=True)
    assert told["result"] is None
    assert "-  index.html: hello\n+  index.html: bye" in told["changes"]["ConfigMap change"]
    assert rack.text("change") == "hello"
    done = rack.released("change")
    assert (done["result"], done["changes"]) == (True, told["changes"]), done
    assert rack.text("change") == "bye"
    assert rack.released("change")["changes"] == {}


def test_another_chart_under_the_same_path_is_an_upgrade(with_helm: Rack) -> None:
    rack = with_helm
    chart = rack.folder / "chart"
    shutil.copytree(CHART, chart)
    rack.want("edited", file=str(chart))
    rack.released("edited")
    template = chart / "templates/greeter.yaml"
    template.write_text(template.read_text().replace("port: 80,", "port: 81,"))
    told = rack.released("edited", test=True)
    assert set(told["changes"]) == {"Service edited"}
    rack.released("edited")
    port = rack.api.kubectl(
        "get", "-n", "edited", "service", "edited", "-o", "jsonpath={.spec.ports[0].port}"
    )
    assert port == "81"


def test_what_was_changed_by_hand_is_told_and_set_right(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("hands", values={"greeting": "hello"})
    rack.released("hands")
    patch = json.dumps({"data": {"index.html": "hacked"}})
    rack.api.kubectl("patch", "-n", "hands", "configmap", "hands", "--patch", patch)
    rack.api.kubectl("delete", "-n", "hands", "service", "hands")
    told = rack.released("hands", test=True)
    assert told["result"] is None
    assert set(told["changes"]) == {"ConfigMap hands", "Service hands"}
    assert "-  index.html: hacked\n+  index.html: hello" in told["changes"]["ConfigMap hands"]
    assert rack.released("hands")["changes"] == told["changes"]
    assert rack.text("hands") == "hello"
    assert rack.released("hands")["changes"] == {}
    # Nor does it stop an upgrade, at which Helm alone would see a conflict
    rack.api.kubectl("patch", "-n", "hands", "configmap", "hands", "--patch", patch)
    rack.want("hands", values={"greeting": "new"})
    assert rack.released("hands")["result"] is True
    assert rack.text("hands") == "new"


def test_a_release_that_left_the_pillar_goes_and_those_of_others_stay(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("stays")
    rack.want("goes")
    for name in ("stays", "goes"):
        rack.released(name)
    request = {
        "op": "release", "kubeconfig": str(helm.ADMIN_CONF), "namespace": "theirs", "name": "theirs",
        "timeout": 30, "chart": {"chart": str(CHART)}, "values": {}, "labels": {}, "exists": False,
    }  # fmt: skip
    helm_engine.ask(str(helm.engine()), request, home=str(rack.folder))
    del rack.releases["goes"]
    told = rack.pruned(test=True)
    assert (told["result"], told["changes"]) == (None, {"goes/goes": "gone"})
    assert rack.objects("goes") != []
    assert rack.pruned()["changes"] == {"goes/goes": "gone"}
    assert rack.objects("goes") == []
    assert rack.pruned()["changes"] == {}
    assert rack.objects("stays") and rack.objects("theirs")
    # Nor is one of theirs taken over because the pillar has the same name, or removed on request.
    rack.want("theirs")
    for test in (True, False):
        ret = rack.released("theirs", test=test)
        assert ret["result"] is False
        assert "not made from this pillar" in ret["comment"]
    with pytest.raises(CommandExecutionError, match="left alone"):
        helm.remove("theirs/theirs")
    # The way out that the message names
    rack.api.kubectl(
        "label", "secret", "-n", "theirs", "-l", "owner=helm,name=theirs", "saltberry/managed=yes"
    )
    assert rack.released("theirs")["result"] is True


def test_a_namespace_that_changes_moves_the_release(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("moves")
    rack.released("moves")
    rack.want("moves", namespace="elsewhere")
    assert rack.pruned()["changes"] == {"moves/moves": "gone"}
    assert rack.released("moves")["result"] is True
    assert [(each["name"], each["namespace"]) for each in helm.releases()] == [
        ("moves", "elsewhere")
    ]


def _worker(rack: Rack) -> contextlib.ExitStack:
    """A node that takes pods, on which none ever runs: there is no kubelet."""
    for _ in range(2):  # a new node is given a taint, which the second time takes away
        rack.api.kubectl("apply", "-f", "-", stdin=json.dumps(WORKER))
    stack = contextlib.ExitStack()
    stack.callback(rack.api.kubectl, "delete", "node", "pi-01")
    return stack


def test_what_does_not_come_up_is_taken_back_with_the_reason(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("back", values={"greeting": "good", "replicas": 0}, timeout=10)
    with _worker(rack):
        done = rack.released("back")
        assert done["result"] is True, done["comment"]
        assert "no node takes pods" not in done["comment"]
        rack.want("back", values={"greeting": "bad", "replicas": 1}, timeout=10)
        ret = rack.released("back")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "Deployment back/back: " in ret["comment"]
    assert "back at revision 1" in ret["comment"], ret["comment"]
    assert rack.text("back") == "good"
    # The good one is what the pillar wants again: nothing but a note is to be done
    rack.want("back", values={"greeting": "good", "replicas": 0}, timeout=10)
    assert rack.released("back")["changes"] == {}


def test_a_new_release_that_does_not_come_up_is_removed_again(with_helm: Rack) -> None:
    rack = with_helm
    rack.want("never", timeout=10)
    with _worker(rack):
        ret = rack.released("never")
    assert ret["result"] is False
    assert "removed again" in ret["comment"], ret["comment"]
    assert rack.objects("never") == []
    assert [each for each in helm.releases() if each["name"] == "never"] == []


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_run_that_was_killed_in_the_middle_is_taken_up(with_helm: Rack, upgrade: bool) -> None:
    rack, name = with_helm, f"killed{int(upgrade)}"
    if upgrade:
        rack.want(name, values={"greeting": "first", "replicas": 0})
        rack.released(name)
    rack.want(name, values={"greeting": "second"}, timeout=60)
    helm.__context__.clear()
    release = helm._Release(name)
    request = release.release(exists=upgrade, wait=True)
    script = [str(Path(str(helm.engine())) / "helm"), "-I", helm_engine.__file__, helm.engine()]
    process = subprocess.Popen(script, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        helm.__context__.clear()
        newest = [each for each in helm.releases() if each["name"] == name]
        if newest and newest[0]["status"].startswith("pending"):
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    helm.__context__.clear()
    assert helm._Release(name).action == "mend"
    told = rack.released(name, test=True)
    assert told["result"] is None
    assert "cut off" in told["comment"]
    done = rack.released(name)
    assert done["result"] is True, done["comment"]
    assert rack.text(name) == "second"
    assert rack.released(name)["changes"] == {}


# --- secrets ------------------------------------------------------------------------------------------


def test_values_of_a_file_are_used_and_never_shown(
    with_helm: Rack, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rack = with_helm
    path = rack.folder / "secret.yaml"
    path.write_text(f"password: {SECRET}\ngreeting: {SECRET} in a page\n")
    path.chmod(0o600)
    rack.want("hidden", values={"greeting": "plain"}, values_from=str(path))
    said = [rack.released("hidden", test=True), rack.released("hidden")]
    assert rack.text("hidden") == f"{SECRET} in a page"
    path.write_text(f"password: another-{SECRET}\ngreeting: other words of {SECRET}\n")
    said += [rack.released("hidden", test=True), rack.released("hidden")]
    assert [each["result"] for each in said] == [None, True, None, True], said
    assert "Secret hidden" in said[2]["changes"] and "ConfigMap hidden" in said[2]["changes"]
    patch = json.dumps({"data": {"index.html": f"another-{SECRET} by hand"}})
    rack.api.kubectl("patch", "-n", "hidden", "configmap", "hidden", "--patch", patch)
    said += [rack.released("hidden", test=True), rack.released("hidden")]
    # A chart that fails with the value in its words
    chart = rack.folder / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates/fail.yaml").write_text("{{ fail .Values.password }}")
    rack.want("hidden", values_from=str(path), file=str(chart))
    said.append(rack.released("hidden", test=True))
    assert said[-1]["result"] is False
    shown = json.dumps(said) + caplog.text + "".join(capfd.readouterr())
    for form in (SECRET, "b3Blbi1zZXNhbWU"):
        assert form not in shown


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, "is not on cp1"),
        ("a: 1", 0o644, "chmod 600"),
        (f"a: [{SECRET}", 0o600, "it is no YAML"),
        (f"- {SECRET}", 0o600, "no mapping"),
    ],
)
def test_a_file_of_values_that_will_not_do_is_refused_before_anything_is_touched(
    with_helm: Rack, text: str | None, mode: int, words: str
) -> None:
    path = with_helm.folder / "secret.yaml"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with_helm.want("wrong", values_from=str(path))
    for test in (True, False):
        ret = with_helm.released("wrong", test=test)
        assert ret["result"] is False
        assert words in ret["comment"]
        assert SECRET not in ret["comment"]
    assert helm.releases() == []


# --- where charts come from ----------------------------------------------------------------------------


def _python(rack: Rack, code: str) -> None:
    """Something of Helm that Saltberry itself does not use: what a chart's author does."""
    script = [sys.executable, "-c", f"import helm_python as helm\n{code}"]
    environment = {
        "PYTHONPATH": str(helm.engine()),
        "HOME": str(rack.folder),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_chart_of_a_repository(with_helm: Rack) -> None:
    rack, folder = with_helm, with_helm.folder / "charts"
    folder.mkdir()
    with served(folder) as url:
        _python(
            rack,
            f"helm.package({str(CHART)!r}, destination={str(folder)!r}, version='1.2.3')\n"
            f"helm.repo_index_generate({str(folder)!r}, base_url={url!r})",
        )
        assert (folder / "index.yaml").exists()
        rack.want("repo", file=None, repo=url, chart="greeter", version="1.2.3")
        done = rack.released("repo")
        assert done["result"] is True, done["comment"]
        assert rack.objects("repo") != []
        rack.want("repo", file=None, repo=url, chart="greeter", version="9.9.9")
        assert "9.9.9" in rack.released("repo", test=True)["comment"]
        rack.want("repo", file=None, repo=url, chart="greeter", version="1.2.3")
    assert rack.released("repo")["changes"] == {}, "and nobody is asked for what is there"


@pytest.mark.skipif(
    not REGISTRY.exists(), reason="not built yet (./rack build does it): a registry"
)
def test_a_chart_of_a_registry(with_helm: Rack) -> None:
    rack, port = with_helm, kube_api.free_port()
    config = rack.folder / "registry.yaml"
    storage = {"filesystem": {"rootdirectory": str(rack.folder / "registry")}}
    config.write_text(
        json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}})
    )
    with (rack.folder / "registry.log").open("w") as log:
        process = subprocess.Popen([REGISTRY, "serve", config], stdout=log, stderr=log)
    try:
        _python(
            rack,
            "import time, urllib.request\n"
            "for _ in range(100):\n"
            "    try:\n"
            f"        urllib.request.urlopen('http://127.0.0.1:{port}/v2/'); break\n"
            "    except OSError:\n"
            "        time.sleep(0.1)\n"
            f"helm.package({str(CHART)!r}, destination={str(rack.folder)!r}, version='2.0.0')\n"
            f"with helm.RegistryClient(plain_http=True) as client:\n"
            f"    client.push({str(rack.folder / 'greeter-2.0.0.tgz')!r}, 'oci://127.0.0.1:{port}/charts',"
            " plain_http=True)",
        )
        oci = f"oci://127.0.0.1:{port}/charts/greeter"
        rack.want("oci", file=None, oci=oci, version="2.0.0", plain_http=True)
        done = rack.released("oci")
        assert done["result"] is True, done["comment"]
        assert rack.objects("oci") != []
    finally:
        process.terminate()
        process.wait()


def test_a_packed_chart_of_the_control_plane(with_helm: Rack) -> None:
    rack = with_helm
    _python(
        rack, f"helm.package({str(CHART)!r}, destination={str(rack.folder)!r}, version='3.0.0')"
    )
    rack.want("packed", file=str(rack.folder / "greeter-3.0.0.tgz"))
    assert rack.released("packed")["result"] is True
    assert rack.objects("packed") != []


def test_a_chart_of_the_masters_files_without_what_has_gone_from_there(
    with_helm: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack = with_helm
    there, cache = rack.folder / "there/charts/greeter", rack.folder / "cache/charts/greeter"
    shutil.copytree(CHART, there)
    (there / "templates/more.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n"
    )

    def cache_dir(where: str) -> list[str]:
        # As Salt's: what has gone from the master stays in the cache
        shutil.copytree(there, cache, dirs_exist_ok=True)
        return [str(path) for path in sorted(cache.rglob("*")) if path.is_file()]

    def list_master(prefix: str) -> list[str]:
        root = rack.folder / "there"
        return [str(path.relative_to(root)) for path in there.rglob("*") if path.is_file()]

    lists: list[list[str]] = [[]]  # the master's list is some seconds old

    def hash_file(path: str) -> dict[str, str]:
        file = rack.folder / "there" / path.removeprefix("salt://")
        return {"hsum": "0"} if file.is_file() else {}

    functions = {
        **helm.__salt__,
        "cp.cache_dir": cache_dir,
        "cp.list_master": lambda prefix: lists.pop() if lists else list_master(prefix),
        "cp.hash_file": hash_file,
    }
    monkeypatch.setattr(helm, "_LIST_SECONDS", 0)
    monkeypatch.setattr(helm, "__salt__", functions)
    rack.want("served", file="salt://charts/greeter")
    assert "ConfigMap more" in rack.released("served")["changes"]
    (there / "templates/more.yaml").unlink()
    assert rack.released("served", test=True)["changes"]["ConfigMap more"] == "gone"
    assert rack.released("served")["result"] is True
    assert "configmap/more" not in rack.objects("served")
    rack.want("served", file="salt://charts/nowhere")
    assert "is not below salt/" in rack.released("served", test=True)["comment"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "/nowhere/chart"}, "is not on cp1"),
        ({"file": "/etc"}, "no Chart.yaml"),
        ({"values": {"replicas": "many"}}, "Deployment.spec.replicas"),
        ({"file": None, "repo": "http://127.0.0.1:1", "chart": "x", "version": "1.0.0"}, "refused"),
    ],
)
def test_what_helm_or_the_api_server_refuses_is_named_and_nothing_is_touched(
    with_helm: Rack, settings: dict[str, Any], words: str
) -> None:
    with_helm.want("refused", **settings)
    for test in (True, False):
        ret = with_helm.released("refused", test=test)
        assert (ret["result"], ret["changes"]) == (False, {})
        assert words in ret["comment"], ret["comment"]
    assert helm.releases() == []


def test_without_a_cluster_test_mode_says_what_will_be(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (helm, manifests):
        monkeypatch.setattr(module, "ADMIN_CONF", rack.folder / "none")
    rack.want("later")
    told = rack.released("later", test=True)
    assert (told["result"], told["changes"]) == (None, {})
    assert "later would be installed" in told["comment"]
    assert rack.released("later")["result"] is False
    assert rack.pruned()["result"] is True
    with pytest.raises(CommandExecutionError, match="no control plane"):
        helm.releases()
