"""The playbook that bench.converge compares with: it does what the states do."""

from __future__ import annotations

from typing import Any

import pytest

from bench.playbook import merged, tasks

FILE = {
    "state": "file",
    "fun": "managed",
    "__id__": "some-file",
    "name": "/etc/some",
    "contents": "a\n",
}


def chunk(state: str, fun: str, id: str = "some-state", **values: Any) -> dict[str, Any]:
    return {"state": state, "fun": fun, "__id__": id, "name": id, **values}


def only(low: dict[str, Any]) -> dict[str, Any]:
    made, _ = tasks([low], sshd="")
    assert len(made) == 1
    return made[0]


def test_a_file_keeps_its_content_mode_owner_and_check() -> None:
    low = {**FILE, "mode": "0440", "user": "anna", "check_cmd": "visudo -cf", "makedirs": True}
    assert only(low) == {
        "name": "some-file",
        "ansible.builtin.copy": {
            "dest": "/etc/some", "content": "a\n", "mode": "0440", "owner": "anna",
            "validate": "visudo -cf %s",
        },
    }  # fmt: skip


def test_a_list_of_contents_is_a_line_each() -> None:
    made = only({**FILE, "contents": ["one", "two"]})
    assert made["ansible.builtin.copy"]["content"] == "one\ntwo\n"


def test_a_served_file_is_copied_as_it_is() -> None:
    low = chunk("file", "managed", source="salt://updates/files/saltberry-updates")
    assert "Unattended-Upgrade" in only(low)["ansible.builtin.copy"]["content"]


def test_packages_come_in_one_task_with_their_versions() -> None:
    low = chunk("debs", "installed", packages={"kubelet": "1.34.2-1.1", "jq": None})
    assert only(low)["ansible.builtin.apt"]["name"] == ["kubelet=1.34.2-1.1", "jq"]


def test_held_packages_are_looked_at_also_in_check_mode() -> None:
    low = chunk("debs", "installed", packages={"kubelet": "1.34.2-1.1"}, hold=True)
    made, _ = tasks([low], sshd="")
    assert [task["name"] for task in made] == [
        "some-state",
        "some-state (held)",
        "some-state (hold)",
    ]
    assert made[1]["check_mode"] is False
    assert made[2]["when"] == "found is changed"


def test_a_watched_file_notifies_the_service() -> None:
    service = chunk(
        "service", "running", "some-service", enable=True, watch=[{"file": "some-file"}]
    )
    made, handlers = tasks([FILE, service], sshd="")
    assert made[0]["notify"] == ["some-service (restart)"]
    assert [handler["name"] for handler in handlers] == ["some-service (restart)"]
    started = {"name": "some-service", "state": "started", "enabled": True}
    assert made[1]["ansible.builtin.systemd_service"] == started


def test_what_only_reacts_is_a_handler_and_no_task() -> None:
    reload = chunk("module", "run", "some-reload", onchanges=[{"file": "some-file"}])
    made, handlers = tasks([FILE, reload], sshd="")
    assert [task["name"] for task in made] == ["some-file"]
    assert handlers[0]["ansible.builtin.systemd_service"] == {"daemon_reload": True}


def test_the_ssh_server_is_told_what_the_node_says() -> None:
    made, _ = tasks([chunk("sshd", "hardened")], sshd="UseDNS no\n")
    assert made[0]["ansible.builtin.copy"]["content"] == "UseDNS no\n"


def test_hosts_are_in_the_states_own_block_in_its_order() -> None:
    entries = {"10.0.0.100": ["b"], "10.0.0.11": ["a", "a.lan"]}
    block = only(chunk("node", "hosts", entries=entries))["ansible.builtin.blockinfile"]
    assert block["block"] == "10.0.0.11\ta a.lan\n10.0.0.100\tb"
    assert block["marker_begin"].startswith("# BEGIN saltberry")


def test_a_state_without_an_equivalent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"some-state: no task does what kubeadm\.joined does"):
        tasks([chunk("kubeadm", "joined")], sshd="")


def test_what_ansible_would_take_for_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="some-file: Ansible would read a template"):
        tasks([{**FILE, "contents": "{{ secret }}\n"}], sshd="")


def test_a_value_that_differs_becomes_a_variable_of_each_node() -> None:
    both = {
        node: [{"name": "some", "ansible.builtin.hostname": {"name": node, "use": "debian"}}]
        for node in ("pi-01", "pi-02")
    }
    made, variables = merged(both)
    assert made == [
        {
            "name": "some",
            "ansible.builtin.hostname": {"name": "{{ task0_hostname_name }}", "use": "debian"},
        }
    ]
    assert variables == {node: {"task0_hostname_name": node} for node in both}


def test_nodes_with_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="pi-01 and pi-02 have different tasks"):
        merged({"pi-01": [{"name": "some"}], "pi-02": [{"name": "other"}]})
