"""The `./rack` command itself."""

from __future__ import annotations

import json
import subprocess

from lab.rack import CHECKOUT, Rack
from tests.lab.conftest import Lab


def _rack(*argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CHECKOUT / "rack"), *argv], capture_output=True, text=True, input=stdin
    )


def test_status_json_has_every_field_of_every_node(lab: Lab) -> None:
    done = _rack("--rack", lab.rack.name, "status", "--json")
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["nodes"]
    assert {"nfs1", "cp1", "pi-01"} <= {node["id"] for node in nodes}
    for node in nodes:
        assert {"id", "role", "key", "joined", "ready", "version", "reason"} <= set(node)


def test_shell_gives_the_exit_code_and_the_words_of_the_command(lab: Lab) -> None:
    done = _rack("--rack", lab.rack.name, "shell", "pi-01", "--", "sh", "-c", "hostname; exit 7")
    assert (done.returncode, done.stdout.strip()) == (7, "pi-01")


def test_shell_passes_standard_input_on(lab: Lab) -> None:
    assert (
        _rack("--rack", lab.rack.name, "shell", "pi-01", "--", "cat", stdin="berries").stdout
        == "berries"
    )


def test_logs_are_read_with_and_without_power(lab: Lab) -> None:
    assert "systemd" in _rack("--rack", lab.rack.name, "logs", "pi-01").stdout
    assert _rack("--rack", lab.rack.name, "unplug", "pi-01").returncode == 0
    try:
        assert "systemd" in _rack("--rack", lab.rack.name, "logs", "pi-01").stdout
        off = next(node for node in lab.rack.status() if node["id"] == "pi-01")
        assert off["reason"] == "no power"
        refused = _rack("--rack", lab.rack.name, "shell", "pi-01", "--", "true")
        assert refused.returncode == 1 and "rack power pi-01" in refused.stderr
    finally:
        assert _rack("--rack", lab.rack.name, "power", "pi-01").returncode == 0
    lab.wait_ready("pi-01")


def test_wrong_names_are_refused_with_the_rule(lab: Lab) -> None:
    done = _rack("--rack", lab.rack.name, "plug", "Pi_9")
    assert done.returncode == 1 and "'Pi_9' is no name for a node" in done.stderr
    done = _rack("--rack", lab.rack.name, "shell", "pi-99", "--", "true")
    assert done.returncode == 1 and "has no node 'pi-99'" in done.stderr
    done = _rack("--rack", "nowhere", "status")
    assert done.returncode == 1 and "no rack 'nowhere'" in done.stderr


def test_second_control_plane_is_refused_before_anything_is_touched(lab: Lab) -> None:
    done = _rack("--rack", lab.rack.name, "plug", "cp2", "--role", "control_plane")
    assert done.returncode == 1, done.stdout
    assert "control" in done.stderr and "cp2" in done.stderr
    assert "cp2" not in (Rack.load(lab.rack.name) or lab.rack).nodes


def test_second_rack_lives_beside_the_first_and_leaves_alone(lab: Lab) -> None:
    from lab import lifecycle
    from lab.cli import CACHE

    other = lifecycle.up(f"{lab.rack.name}2", CACHE, lab.progress, only=[])
    try:
        assert other.subnet != lab.rack.subnet
        # Those its pillar names, and none of the first rack's.
        assert {node["id"] for node in other.status()} == {"nfs1", "cp1"}
    finally:
        assert _rack("--rack", other.name, "down").returncode == 0
    assert Rack.load(other.name) is None
    listed = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True
    ).stdout
    assert f"saltberry-{other.name}-" not in listed
    volumes = subprocess.run(
        ["podman", "volume", "ls", "-q"], capture_output=True, text=True
    ).stdout
    assert f"saltberry-{other.name}-" not in volumes
    assert lab.is_ready("pi-01")


def test_doctor_finds_this_machine_fit(lab: Lab) -> None:
    done = _rack("doctor")
    assert done.returncode == 0, done.stdout
