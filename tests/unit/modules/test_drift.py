"""What a node says of itself: the states that differ, exactly, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import drift
from saltberry_ext.utils import masking, rackspec

BUSY = ['The function "state.apply" is running as PID 77 and was started at 12:00 with jid 2026']


class Minion:
    """What Salt would give the module."""

    def __init__(self) -> None:
        self.returned: Any = {}
        self.low: list[Any] = []
        self.running: list[list[str]] = []
        self.asked: list[dict[str, Any]] = []
        self.pillar: dict[str, Any] = {}
        self.context: dict[str, Any] = {}

    def busy(self) -> list[str]:
        return self.running.pop(0) if self.running else []

    def apply(self, **kwargs: Any) -> Any:
        self.asked.append(kwargs)
        self.context["retcode"] = 2
        return self.returned

    def state(self, name: str, result: bool | None = True, /, **more: Any) -> None:
        """One state that ran; the arguments that are no part of a return are its requisites."""
        path, function = more.pop("path", name), more.pop("function", "file.managed")
        kind, fun = function.split(".")
        asked = {
            key: more.pop(key)
            for key in ("mode", "watch", "onchanges", "show_changes", "password")
            if key in more
        }
        self.low.append({"__id__": name, "name": path, "state": kind, "fun": fun, **asked})
        self.returned[f"{kind}_|-{name}_|-{path}_|-{fun}"] = {
            "__id__": name, "name": path, "__sls__": "x", "__run_num__": len(self.low),
            "result": result, "changes": {}, "comment": "", **more,
        }  # fmt: skip


@pytest.fixture
def minion() -> Minion:
    return Minion()


@pytest.fixture
def configure_loader_modules(minion: Minion) -> dict[Any, Any]:
    return {
        drift: {
            "__salt__": {
                "state.running": minion.busy,
                "state.apply": minion.apply,
                "state.show_lowstate": lambda queue: minion.low,
            },
            "__utils__": {
                "masking.text": masking.text, "masking.tree": masking.tree,
                "masking.values_of": masking.values_of, "masking.secret_file": masking.secret_file,
                "rackspec.container_storage": rackspec.container_storage,
            },
            "__pillar__": minion.pillar,
            "__opts__": {"id": "pi-01"},
            "__context__": minion.context,
        }
    }  # fmt: skip


def ids(found: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in found["drift"]]


def test_a_clean_node_says_so_in_a_few_words(minion: Minion) -> None:
    for number in range(70):
        minion.state(f"s{number}", comment="x" * 500)
    found = drift.look()
    assert (found["status"], found["states"], found["drift"]) == ("clean", 70, [])
    assert len(json.dumps(found)) < 1000
    assert minion.asked == [{"test": True, "queue": False, "state_events": False}]
    assert minion.context["retcode"] == 0, "a finding is no failure"


def test_only_what_differs_is_named_in_the_order_it_ran(minion: Minion) -> None:
    minion.state("b", None, changes={"diff": "+x"})
    minion.state("fine")
    minion.state("a", False, comment="kubelet 1.19 is not 1.20")
    minion.state("led astray", False, comment="One or more requisite failed: a")
    found = drift.look()
    assert found["status"] == "drifted"
    assert ids(found) == ["b", "a"]
    assert [entry["failed"] for entry in found["drift"]] == [False, True]
    assert found["drift"][0]["function"] == "file.managed"


def test_what_would_only_follow_names_its_cause(minion: Minion) -> None:
    minion.state("config", None, changes={"diff": "+x"}, path="/etc/c")
    minion.state("service", None, function="service.running", watch=[{"file": "config"}])
    minion.state(
        "by name", None, function="module.run", onchanges=[{"file": "/etc/c"}], changes={"ret": 1},
        name="['service.systemctl_reload']",
    )  # fmt: skip
    minion.state("by sls", None, function="module.run", onchanges=[{"sls": "x"}])
    minion.state(
        "dead one",
        None,
        function="service.running",
        watch=[{"file": "config"}],
        changes={"dead": 1},
    )
    minion.state(
        "stopped", None, function="service.running", watch=[{"file": "config"}],
        comment="Service is set to be started",
    )  # fmt: skip
    follows = {entry["id"]: entry["follows"] for entry in drift.look()["drift"]}
    assert follows["stopped"] == [], "it would have to be started without the change, too"
    assert follows["config"] == []
    assert follows["service"] == ["config"]
    assert follows["by name"] == ["config"]
    assert "config" in follows["by sls"]
    assert follows["dead one"] == [], "it is dead itself, whatever its configuration"


def test_states_that_run_are_told_before_and_after(minion: Minion) -> None:
    minion.running = [BUSY]
    found = drift.look()
    assert (found["status"], minion.asked) == ("apply in progress", [])
    assert "PID 77" in found["reason"]
    minion.state("a", None)
    minion.running = [[], BUSY]
    assert drift.look()["status"] == "apply in progress"
    minion.returned = BUSY
    assert drift.look()["status"] == "apply in progress"


@pytest.mark.parametrize(
    "returned",
    [
        ["Rendering SLS 'base:x' failed: token: hunter22"],
        ["Pillar failed to render", "the rack description has 1 problem"],
        "something else",
        {"name": "highstate is disabled", "result": "False", "comment": "Disabled"},
        None,
    ],
)
def test_what_is_no_result_is_a_render_error(minion: Minion, returned: Any) -> None:
    minion.returned = returned
    found = drift.look()
    assert found["status"] == "render error"
    assert found["reason"]
    assert "hunter22" not in found["reason"]


def test_nothing_hidden_leaves_the_node(minion: Minion, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("x")
    private.chmod(0o600)
    public = tmp_path / "public"
    public.write_text("x")
    public.chmod(0o644)
    minion.pillar["smtp"] = {"password": "word of the pillar"}
    diff = {"diff": "-user\n+hunter22"}
    minion.state("by mode of the file", None, path=str(private), changes=diff)
    minion.state("by mode wanted", None, path="/nowhere/x", mode="0600", changes=diff)
    minion.state("by name", None, path="/etc/kubernetes/admin.conf", changes=diff)
    minion.state("by argument", None, path=str(public), show_changes=False, changes=diff)
    minion.state("by key", None, changes={"token": "hunter22"}, comment="password=hunter22")
    minion.state("by pillar", None, path=str(public), changes={"diff": "+word of the pillar"})
    minion.state("of a state", None, password="a hunter22", changes={"set": "to a hunter22"})
    minion.state("one of many", None, path="/many", changes={str(private): diff})
    said = json.dumps(drift.look())
    assert "hunter22" not in said
    assert "word of the pillar" not in said
    assert "1 lines more, 1 lines less" in said


def test_what_may_be_seen_is_shown(minion: Minion, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.write_text("x")
    public.chmod(0o644)
    changes = {"diff": "-a = 1\n+a = 2", "mode": "0644"}
    minion.state("a", None, path=str(public), mode="0644", changes=changes)
    assert drift.look()["drift"][0]["changes"] == changes


def test_an_answer_is_small_whatever_happened(minion: Minion) -> None:
    for number in range(300):
        minion.state(
            f"s{number}", None, changes={"diff": "+line of a file\n" * 5000}, comment="c" * 99999
        )
    found = drift.look()
    assert len(found["drift"]) == drift.MOST_STATES
    assert found["more"] == 300 - drift.MOST_STATES
    assert "4880 more lines" in found["drift"][0]["changes"]["diff"]
    assert len(json.dumps(found)) < 600_000


def test_vitals_are_what_the_machine_tells(
    minion: Minion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("_ZONE", "51540\n"),
        ("_THROTTLED", "50005\n"),
        ("_MODEL", "Raspberry Pi 4\0"),
    ):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(drift, name, path)
    found = drift.vitals()
    assert found["temperature"] == 51.5
    assert found["throttled"] == ["under-voltage", "throttled"]
    assert found["model"] == "Raspberry Pi 4"
    assert found["storage"]["backend"] == "local"
    assert 0 < found["storage"]["free"] <= found["storage"]["size"]
    (tmp_path / "_THROTTLED").write_text("50000")
    assert drift.vitals()["throttled"] == [
        "under-voltage since the boot",
        "throttled since the boot",
    ]
    for name in ("_ZONE", "_THROTTLED", "_MODEL"):
        (tmp_path / name).write_text("nonsense" if name != "_MODEL" else "")
    found = drift.vitals()
    assert (found["temperature"], found["throttled"], found["model"]) == (None, None, None)


def test_the_storage_node_tells_of_the_share(minion: Minion, tmp_path: Path) -> None:
    minion.pillar.update(node={"roles": ["storage", "master"]}, nfs={"path": str(tmp_path)})
    assert drift.vitals()["storage"]["backend"] == "share"
    assert drift.vitals()["storage"]["path"] == str(tmp_path)
