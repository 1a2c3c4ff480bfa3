"""The checkout as Salt sees it: what reaches minions and master from where, and what never does."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltfactories.cli.call import SaltCall
from saltfactories.cli.run import SaltRun
from saltfactories.cli.salt import Salt
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import Channel

REPO = Path(__file__).resolve().parents[2]
INVALID = REPO / "tests" / "fixtures" / "racks" / "invalid"
SECRET = "s3cr3t-of-the-master"


def data(ret: Any) -> Any:
    """Return the data of a command that must have succeeded."""
    assert ret.returncode == 0, ret
    return ret.data


# ---- what reaches whom ----


def test_shipped_configuration_is_the_running_one(master: SaltMaster, pi_01: SaltMinion) -> None:
    """Salt knows the keys that it is given, and nothing of pytest's own undid them."""
    assert master.config["worker_threads"] == 2
    assert not master.config["peer"]
    assert not master.config["auto_accept"]
    assert list(master.config["file_roots"]) == ["base"]
    assert pi_01.config["autoload_dynamic_modules"] is False
    assert pi_01.config["minion_sign_messages"] is True


@pytest.mark.parametrize("template", ["master", "minion"])
def test_each_key_is_one_that_salt_knows(template: str) -> None:
    """A misspelt or retired key would be ignored in silence."""
    import salt.config

    # ours; read by the loader under a name that it makes up; read where minions ask for runners
    own = {"saltberry", "pillar_dirs", "cache_dirs", "peer_run"}
    text = (REPO / "etc" / f"{template}.d" / "saltberry.conf.in").read_text(encoding="utf-8")
    keys = set(yaml.safe_load(text.replace("@", "")))
    known = {
        *salt.config.VALID_OPTS,
        *salt.config.DEFAULT_MASTER_OPTS,
        *salt.config.DEFAULT_MINION_OPTS,
    }
    assert keys - known - own == set()


@pytest.mark.parametrize("kind", ["modules", "states", "utils"])
def test_modules_of_the_top_level_folders_reach_the_minion(
    kind: str, salt_cli: Salt, checkout: Path, pi_01: SaltMinion
) -> None:
    """All of them, from the folder itself: the links in salt/ lead there."""
    ours = {path.stem for path in (checkout / f"_{kind}").glob("*.py")}
    assert "layout_probe" in ours
    assert data(salt_cli.run("saltutil.sync_all", minion_tgt=pi_01.id))[kind] == []
    synced = Path(pi_01.config["extension_modules"]) / kind
    assert {path.stem for path in synced.glob("*.py")} == ours


def test_a_changed_module_is_synced_and_runs(
    salt_cli: Salt, checkout: Path, pi_01: SaltMinion
) -> None:
    path = checkout / "_utils" / "layout_probe.py"
    before = path.read_text(encoding="utf-8")
    assert data(salt_cli.run("layout_probe.shout", "word", minion_tgt=pi_01.id)) == "WORD"
    try:
        path.write_text(before.replace("word.upper()", "word.title()"), encoding="utf-8")
        synced = data(salt_cli.run("saltutil.sync_utils", minion_tgt=pi_01.id))
        assert synced == ["utils.layout_probe"]
        assert data(salt_cli.run("layout_probe.shout", "word", minion_tgt=pi_01.id)) == "Word"
    finally:
        path.write_text(before, encoding="utf-8")
        data(salt_cli.run("saltutil.sync_utils", minion_tgt=pi_01.id))
    assert path.exists(), "a sync must not delete from the checkout"


def test_salt_run_finds_our_runners_and_they_our_utilities(salt_run_cli: SaltRun) -> None:
    ret = salt_run_cli.run("layout_probe.shout", "word")
    assert (ret.returncode, ret.stdout) == (0, "WORD")
    assert data(salt_run_cli.run("layout_probe.good_id", "pi_01")) is False


def test_minion_asks_rackspec_about_its_pillar(salt_cli: Salt) -> None:
    ret = salt_cli.run("layout_probe.roles", minion_tgt="*")
    assert data(ret) == {"cp1": ["control_plane"], "pi-01": ["worker"]}


def test_no_minion_may_run_anything_elsewhere(salt_call_cli: SaltCall, salt_cli: Salt) -> None:
    assert data(salt_cli.run("test.ping", minion_tgt="cp1")) is True
    assert not salt_call_cli.run("publish.publish", "cp1", "test.ping").data
    assert not salt_call_cli.run("publish.runner", "layout_probe.shout", "word").data


# ---- the pillar of a minion ----


@pytest.fixture
def cluster_json(state_dir: Path) -> Iterator[Path]:
    """The facts of a cluster, with things that are for the master only in the same place."""
    path = state_dir / "cluster.json"
    facts = {
        "endpoint": "192.168.1.11:6443",
        "ca_hash": "sha256:" + "ab" * 32,
        "version": "v1.34.2",
        "nodes": {"pi-01": {"ip": "192.168.1.21", "pod_cidr": "10.244.1.0/24", "note": SECRET}},
        "kubeconfig": SECRET,
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    (state_dir / "attempts.json").write_text(json.dumps({"cp1": SECRET}), encoding="utf-8")
    yield path
    path.unlink()
    (state_dir / "attempts.json").unlink()


@pytest.mark.usefixtures("cluster_json")
def test_pillar_tells_each_minion_who_it_is(salt_cli: Salt) -> None:
    data(salt_cli.run("saltutil.refresh_pillar", wait=True, minion_tgt="*"))
    pillars = data(salt_cli.run("layout_probe.pillar", minion_tgt="*"))
    assert {minion_id: pillar["node"] for minion_id, pillar in pillars.items()} == {
        "cp1": {"id": "cp1", "roles": ["control_plane"], "ip": "192.168.1.11", "named": True},
        "pi-01": {"id": "pi-01", "roles": ["worker"], "ip": "192.168.1.21", "named": True},
    }
    for pillar in pillars.values():
        assert pillar["kubernetes"]["pod_network"] == "10.244.0.0/16"  # from the defaults
        assert pillar["rack"] == {
            "name": "berry",
            "domain": "rack.lan",
            "network": "192.168.1.0/24",
        }
        assert pillar["cluster"] == {
            "endpoint": "192.168.1.11:6443",
            "ca_hash": "sha256:" + "ab" * 32,
            "version": "v1.34.2",
            "nodes": {"pi-01": {"ip": "192.168.1.21", "pod_cidr": "10.244.1.0/24"}},
        }


@pytest.mark.usefixtures("cluster_json")
def test_pillar_of_a_worker_has_nothing_that_is_for_others(
    salt_cli: Salt, salt_run_cli: SaltRun, checkout: Path, state_dir: Path
) -> None:
    (checkout / "pillar" / "other.sls").write_text(f"other: {SECRET}\n", encoding="utf-8")
    data(salt_cli.run("saltutil.refresh_pillar", wait=True, minion_tgt="pi-01"))
    compiled = data(salt_run_cli.run("pillar.show_pillar", "pi-01"))
    allowed = {
        "rack",
        "nodes",
        "kubernetes",
        "containerd",
        "mirror",
        "nfs",
        "container_storage",
        "docker",
        "system",
        "users",
        "ssh",
        "firewall",
        "cards",  # the wifi's password is a file on the master
        "strangers",  # how many keys may wait; whose, is a file on the master
        "reconcile",
        "drift",
        "page",
        "services",  # their passwords are made on the cluster
        "helm",  # secrets of charts are a file on the control plane
        "node",
        "cluster",
    }
    assert set(compiled) == allowed
    arrived = data(salt_cli.run("layout_probe.pillar", minion_tgt="pi-01"))
    assert arrived["cluster"] == compiled["cluster"] != {}
    text = json.dumps([compiled, arrived])
    assert SECRET not in text
    assert str(state_dir) not in text


def test_orchestration_on_the_master_has_a_pillar_too(
    salt_run_cli: SaltRun, master: SaltMaster
) -> None:
    """Its id, nfs1_master, is no host name; with an error in its pillar no orchestration would start."""
    pillar = data(salt_run_cli.run("pillar.show_pillar", master.id))
    assert "_errors" not in pillar
    assert pillar["rack"]["name"] == "berry"
    assert "node" not in pillar


@pytest.mark.parametrize("minion_id", ["Pi_1", "*", "pi-1\nx", "localhost", "pi.lan"])
def test_an_id_that_is_no_host_name_gets_an_error_and_no_pillar(
    minion_id: str, salt_run_cli: SaltRun
) -> None:
    pillar = data(salt_run_cli.run("pillar.show_pillar", minion_id))
    assert set(pillar) == {"_errors"}
    assert "is not a host name; set another id" in " ".join(pillar["_errors"])


def test_a_minion_that_the_rack_does_not_name_is_a_worker(salt_run_cli: SaltRun) -> None:
    pillar = data(salt_run_cli.run("pillar.show_pillar", "pi-77"))
    assert pillar["node"] == {"id": "pi-77", "roles": ["worker"], "ip": None, "named": False}


# ---- wrong racks ----


@pytest.fixture
def ran(pi_01: SaltMinion) -> Iterator[Path]:
    """The file that the states of files/probe leave on pi-01."""
    path = Path(pi_01.config["cachedir"]) / "ran"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def refused(ret: Any) -> str:
    """Return the errors with which a state run was refused."""
    assert ret.returncode != 0
    assert isinstance(ret.data, list), f"states ran: {ret.data}"
    return "\n".join(ret.data)


def test_a_good_rack_is_applied(salt_cli: Salt, ran: Path) -> None:
    states = data(salt_cli.run("state.apply", minion_tgt="pi-01"))
    assert [state["result"] for state in states.values()] == [True]
    assert ran.read_text(encoding="utf-8") == "RAN"


@pytest.mark.parametrize("args", [(), ("layout_probe",)], ids=["highstate", "sls"])
def test_an_invalid_rack_is_refused_with_all_problems(
    args: tuple[str, ...], salt_cli: Salt, rack_file: Callable[[str | None], Path], ran: Path
) -> None:
    case = yaml.safe_load((INVALID / "everything-at-once.yaml").read_text(encoding="utf-8"))
    rack_file(yaml.safe_dump(case["pillar"]))
    errors = refused(salt_cli.run("state.apply", *args, minion_tgt="pi-01"))
    assert "7 problems" in errors
    for problem in case["expect"]:
        assert problem.strip() in errors
    assert not ran.exists()


def test_a_forgotten_rack_file_is_explained(
    salt_cli: Salt, rack_file: Callable[[str | None], Path], ran: Path
) -> None:
    path = rack_file(None)
    errors = refused(salt_cli.run("state.apply", minion_tgt="pi-01"))
    assert f"{path} is missing; copy pillar/rack.example.sls to pillar/rack.sls" in errors
    assert "describe your rack" in errors
    assert not ran.exists()


BROKEN = {
    "duplicate id": (
        "rack: {network: 192.168.1.0/24}\nnodes:\n  pi-01: {ip: 192.168.1.21}\n  pi-01: {ip: 192.168.1.22}\n",
        "the key 'pi-01' is there twice (line 4); keep one of them",
    ),
    "no YAML": ("rack: {network: 192.168.1.0/24\n", "did not find expected ',' or '}'"),
    "no mapping": ("just some words\n", "does not render to a dictionary"),
    "Jinja": (
        "rack: {network: {{ nonsense( }}}\n",
        "Jinja syntax error: unexpected '}', expected ')'; line 1",
    ),
    "empty": ("# nothing yet\n", "is empty; copy pillar/rack.example.sls"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rack_file_is_explained(
    name: str, salt_cli: Salt, rack_file: Callable[[str | None], Path], ran: Path
) -> None:
    text, reason = BROKEN[name]
    path = rack_file(text)
    errors = refused(salt_cli.run("state.apply", minion_tgt="pi-01"))
    assert reason in errors
    assert str(path) in errors
    assert not ran.exists()


def test_damaged_cluster_facts_are_explained(salt_cli: Salt, state_dir: Path, ran: Path) -> None:
    path = state_dir / "cluster.json"
    path.write_text('{"endpoint": ', encoding="utf-8")
    try:
        errors = refused(salt_cli.run("state.apply", minion_tgt="pi-01"))
    finally:
        path.unlink()
    assert f"{path} is damaged" in errors
    assert "salt-run rack.reconcile" in errors
    assert not ran.exists()


# ---- the file server ----

# Where a minion may look for what is none of its business. Each is asked for by every way there is.
FORBIDDEN = [
    "pillar/rack.sls",
    "../pillar/rack.sls",
    "salt/../../pillar/rack.sls",
    "_utils/../pillar/rack.sls",
    "_utils/../../pillar/rack.sls",
    "orch/../../pillar/rack.sls",
    "./../pillar/rack.sls",
    "|../pillar/rack.sls",
    "|_utils/../pillar/rack.sls",
    "..%2fpillar%2frack.sls",
    "%2e%2e/pillar/rack.sls",
    "_utils/%2e%2e/pillar/rack.sls",
    "../pillar/rack.sls?saltenv=base",
    "../pillar/rack.sls?index=0",
    "_utils/..?index=0",
    "..\\pillar\\rack.sls",
    "../Saltfile",
    "Saltfile",
    "../_runners/layout_probe.py",
    "_runners/layout_probe.py",
    "../_pillar/saltberry.py",
    "_pillar/saltberry.py",
    "../reactor/start.sls",
    "reactor/start.sls",
    "/etc/passwd",
    "//etc/passwd",
    "|/etc/passwd",
    "../../../../../../../../etc/passwd",
]
OTHER_ENVS = ["prod", "dev", "__env__", "pillar", "..", "../pillar", "", None]


def forbidden(checkout: Path, master: SaltMaster) -> list[str]:
    """Add the absolute paths of this run, the master's keys and its configuration."""
    pki = Path(master.config["pki_dir"])
    root = Path(checkout) / "salt"
    paths = [
        checkout / "pillar" / "rack.sls",
        pki / "master.pem",
        pki / "minions" / "cp1",
        Path(master.config["conf_file"]),
    ]
    assert all(path.is_file() for path in paths)
    return [*FORBIDDEN, *map(str, paths), *(os.path.relpath(path, root) for path in paths)]


@pytest.mark.parametrize("function", ["cp.get_file_str", "cp.cache_file", "cp.hash_file"])
def test_minion_gets_no_file_that_is_not_served(
    function: str, salt_cli: Salt, checkout: Path, master: SaltMaster
) -> None:
    good = "salt://layout_probe/init.sls"
    urls = [good, *(f"salt://{path}" for path in forbidden(checkout, master))]
    answers = data(
        salt_cli.run("layout_probe.each", function, json.dumps(urls), minion_tgt="pi-01")
    )
    assert set(answers) == set(urls)
    assert answers.pop(good), "the question itself must work"
    assert {url: answer for url, answer in answers.items() if answer} == {}


def test_links_in_the_served_folder_lead_to_nothing_private() -> None:
    """The file server follows links, so a link in salt/ is a way out of it."""
    links = [path for path in (REPO / "salt").rglob("*") if path.is_symlink()]
    targets = {path.resolve().relative_to(REPO).parts[0] for path in links}
    assert {"_modules", "_states", "_utils"} <= targets
    assert targets <= {"_modules", "_states", "_utils", "etc", "install"}


def test_the_list_of_files_is_what_lies_in_salt(salt_cli: Salt, checkout: Path) -> None:
    listed = set(data(salt_cli.run("cp.list_master", minion_tgt="pi-01")))
    assert "layout_probe/init.sls" in listed
    assert {name for name in listed if name.startswith("_")} == {
        f"_{kind}/{path.name}"
        for kind in ("modules", "states", "utils")
        for path in (checkout / f"_{kind}").glob("*.py")
    }
    assert not [name for name in listed if ".." in name or not (checkout / "salt" / name).is_file()]
    for env in ("prod", "pillar", ".."):
        ret = salt_cli.run("cp.list_master", saltenv=env, minion_tgt="pi-01")
        assert not ret.data, (env, ret.data)


def content(answer: Any) -> Any:
    """Return what an answer to _serve_file or _file_hash gives away, if anything."""
    if not isinstance(answer, dict):
        return answer
    return answer.get("data") or answer.get("hsum") or answer.get("path")


@pytest.mark.parametrize("cmd", ["_serve_file", "_file_hash", "_file_hash_and_stat", "_file_find"])
def test_hostile_minion_gets_no_file_that_is_not_served(
    cmd: str, channel: Channel, checkout: Path, master: SaltMaster
) -> None:
    def ask(path: str, saltenv: str | None) -> Any:
        answer = channel.ask(cmd, path=path, saltenv=saltenv, loc=0)
        return content(answer[0] if cmd == "_file_hash_and_stat" and answer else answer)

    assert ask("layout_probe/init.sls", "base"), "the question itself must work"
    for path in forbidden(checkout, master):
        assert not ask(path, "base"), path
    for env in OTHER_ENVS:
        for path in ("layout_probe/init.sls", "rack.sls", "pillar/rack.sls"):
            assert not ask(path, env), (env, path)


@pytest.mark.parametrize(
    "cmd", ["_file_list", "_dir_list", "_symlink_list", "_file_list_emptydirs"]
)
def test_hostile_minion_lists_nothing_else(cmd: str, channel: Channel) -> None:
    def ask(**load: Any) -> set[str]:
        return set(channel.ask(cmd, **load) or [])

    everything = ask(saltenv="base")
    if cmd in ("_file_list", "_dir_list"):
        assert any(name.startswith("layout_probe") for name in everything)
    assert not [
        name for name in everything if ".." in name or "rack.sls" in name or name.startswith("/")
    ]
    for prefix in ("..", "../", "/", "../pillar", "_utils/..", "_utils/../pillar"):
        assert ask(saltenv="base", prefix=prefix) <= everything
    for env in OTHER_ENVS:
        assert not ask(saltenv=env), env


def test_hostile_minion_cannot_send_files_to_the_master(
    channel: Channel, master: SaltMaster
) -> None:
    load = {"path": ["x"], "loc": 0, "data": base64.b64encode(b"x"), "size": 1}
    assert not channel.ask("_file_recv", **load)
    assert not list(Path(master.config["cachedir"]).glob("minions/*/files/x"))


# ---- the Saltfile ----


@pytest.fixture
def shell(
    checkout: Path, master: SaltMaster
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a Salt program in the checkout as a person does, without options.

    The Saltfile's config_dir is the test's; all else in it stays.
    """
    path = checkout / "Saltfile"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("/etc/salt", str(Path(master.config["conf_file"]).parent)))
    programs = Path(sys.executable).parent

    def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *args]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)

    yield run
    path.write_text(before, encoding="utf-8")


def test_salt_needs_no_options(shell: Callable[..., Any], ran: Path, salt_cli: Salt) -> None:
    ret = shell("salt", "pi-01", "state.apply")
    assert ret.returncode == 0, ret
    assert "Succeeded: 1 (changed=1)" in ret.stdout
    assert "Function: layout_probe.marked" in ret.stdout  # a change in full
    assert ran.exists()


def test_salt_run_needs_no_options_and_prints_its_answer_alone(shell: Callable[..., Any]) -> None:
    ret = shell("salt-run", "layout_probe.shout", "word")
    assert ret.returncode == 0, ret
    assert "WORD" in ret.stdout
    assert "unclosed" not in ret.stderr


def test_salt_key_needs_no_options(
    shell: Callable[..., Any], cp1: SaltMinion, pi_01: SaltMinion
) -> None:
    ret = shell("salt-key", "-L")
    assert ret.returncode == 0, ret
    assert {cp1.id, pi_01.id} <= set(ret.stdout.split())


def test_saltfile_names_programs_and_options_that_exist() -> None:
    """A misspelt option would be ignored in silence."""
    import salt.cli.call
    import salt.cli.cp
    import salt.cli.key
    import salt.cli.run
    import salt.cli.salt

    parsers = {
        "salt": salt.cli.salt.SaltCMD,
        "salt-call": salt.cli.call.SaltCall,
        "salt-run": salt.cli.run.SaltRun,
        "salt-key": salt.cli.key.SaltKey,
        "salt-cp": salt.cli.cp.SaltCPCli,
    }
    sections = yaml.safe_load((REPO / "Saltfile").read_text(encoding="utf-8"))
    assert set(sections) == set(parsers)
    for program, options in sections.items():
        parser = parsers[program]()
        groups = [parser, *parser.option_groups]
        known = {option.dest for group in groups for option in group.option_list}
        assert set(options) <= known, program
