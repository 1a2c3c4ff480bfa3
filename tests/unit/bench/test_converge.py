"""What bench.converge reads out of both sides' words."""

from __future__ import annotations

from typing import Any

import pytest

from bench import converge
from bench.converge import Wrong, ansible_changes, quiet, salt_changes

SAID = """\
PLAY [all] *****

TASK [some-file] *****
ok: [pi-01]
changed: [pi-02]

TASK [some-packages (held)] *****
changed: [pi-02]
skipping: [pi-01]

PLAY RECAP *****
pi-01                      : ok=1    changed=0    unreachable=0    failed=0    skipped=1
pi-02                      : ok=2    changed=2    unreachable=0    failed=0    skipped=0
"""


def state(id: str, result: bool | None = True, **changes: Any) -> dict[str, Any]:
    return {"__id__": id, "result": result, "changes": changes, "comment": "its words"}


def test_salt_names_what_changed_and_what_would_change() -> None:
    said = {"pi-01": {"a": state("a"), "b": state("b", None), "c": state("c", diff="x")}}
    assert salt_changes(said, ["pi-01"]) == {"pi-01": {"b", "c"}}


@pytest.mark.parametrize("said", [{}, {"pi-01": ["Rendering SLS failed"]}, {"pi-01": False}])
def test_a_node_that_says_no_states_is_an_error(said: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match="pi-01"):
        salt_changes(said, ["pi-01"])


def test_a_failed_state_is_an_error() -> None:
    with pytest.raises(Wrong, match="pi-01: a: its words"):
        salt_changes({"pi-01": {"a": state("a", False)}}, ["pi-01"])


def test_ansible_names_the_states_of_its_tasks() -> None:
    named = ansible_changes(SAID, ["pi-01", "pi-02"])
    assert named == {"pi-01": set(), "pi-02": {"some-file", "some-packages"}}


def test_a_node_that_took_no_part_is_an_error() -> None:
    with pytest.raises(Wrong, match="pi-03 went wrong"):
        ansible_changes(SAID, ["pi-01", "pi-02", "pi-03"])


@pytest.mark.parametrize("count", ["unreachable", "failed"])
def test_an_unreachable_node_and_a_failed_task_are_errors(count: str) -> None:
    with pytest.raises(Wrong, match="pi-01 went wrong"):
        ansible_changes(SAID.replace(f"{count}=0", f"{count}=1", 1), ["pi-01"])


def test_a_change_that_no_task_names_is_an_error() -> None:
    with pytest.raises(Wrong, match="tasks and recap differ"):
        ansible_changes(SAID.replace("changed=0", "changed=1", 1), ["pi-01", "pi-02"])


def test_only_a_run_without_changes_is_quiet() -> None:
    quiet("Salt", {"pi-01": set()})
    with pytest.raises(Wrong, match=r"Salt is no no-op: \{'pi-02': \['a'\]\}"):
        quiet("Salt", {"pi-01": set(), "pi-02": {"a"}})


def test_a_machine_without_ansible_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converge.os, "geteuid", lambda: 0)
    monkeypatch.setattr(converge, "program", lambda: "/nowhere/ansible-playbook")
    assert converge.lacking() == "Ansible is not here: run tools/venv bench"
