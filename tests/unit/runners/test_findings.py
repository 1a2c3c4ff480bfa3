"""From the nodes' answers to one document, and from that to words, XML and metrics."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from saltberry_ext.runners import _findings as findings

NOW = 1795467000.0


def state(name: str = "base-sysctl", /, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "sls": "base.kernel", "function": "node.sysctl", "name": "/etc/sysctl.d/99.conf",
        "comment": "would be set: file", "changes": {"diff": "-a\n+b"}, "failed": False,
        "follows": [], **more,
    }  # fmt: skip


def answer(*drift: dict[str, Any], **more: Any) -> dict[str, Any]:
    status = "drifted" if drift else "clean"
    return {"status": status, "reason": "", "states": 61, "seconds": 2.5, "drift": list(drift),
            "more": 0, "vitals": {}, **more}  # fmt: skip


def row(*drift: dict[str, Any], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = findings.row(answer(*drift, **more), now=NOW)
    return found


def document(**nodes: dict[str, Any]) -> dict[str, Any]:
    named = {name.replace("_", "-"): entry for name, entry in nodes.items()}
    return {
        "kind": "check", "rack": "berry", "tgt": None, "began": NOW, "seconds": 4.2, "problems": [],
        "nodes": named, "counts": findings.counts(named), "exit": findings.exit_code(named),
    }  # fmt: skip


CLEAN = row()
DRIFTED = row(state())
GONE = findings.unchecked("it does not answer", now=NOW)
BROKEN = row(status="render error", reason="Rendering SLS 'base:x' failed")
BUSY = row(status="apply in progress", reason="state.apply runs")


# --- exit codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([CLEAN, CLEAN], 0),
        ([CLEAN, DRIFTED], 1),
        ([CLEAN, GONE], 2),
        ([DRIFTED, GONE], 2),
        ([CLEAN, BROKEN], 2),
        ([CLEAN, BUSY], 2),
        ([], 2),
    ],
)
def test_exit_codes(rows: list[dict[str, Any]], code: int) -> None:
    assert findings.exit_code({str(number): entry for number, entry in enumerate(rows)}) == code


def test_a_problem_of_the_check_itself_is_no_clean_rack() -> None:
    assert findings.exit_code({"cp1": CLEAN}, ["the disk is away"]) == 2


# --- a node's word -----------------------------------------------------------------------------------


def test_a_good_answer_is_taken_as_it_is() -> None:
    assert DRIFTED["status"] == "drifted"
    assert DRIFTED["drift"] == [state()]
    assert (DRIFTED["states"], DRIFTED["seconds"], DRIFTED["checked"]) == (61, 2.5, NOW)


@pytest.mark.parametrize(
    "said",
    [None, True, 7, [], ["x"], {}, {"status": "fine"}, {"status": ["clean"]}, {"status": None}],
)
def test_an_answer_that_makes_no_sense_is_no_clean_node(said: Any) -> None:
    assert findings.row(said, now=NOW)["status"] == "unreachable"


def test_an_answer_that_contradicts_itself_is_no_clean_node() -> None:
    for said in (answer(status="drifted"), answer(state(), status="clean")):
        assert findings.row(said, now=NOW)["status"] == "unreachable"


def test_an_error_text_is_the_reason() -> None:
    found = findings.row("'drift.look' is not available.", now=NOW)
    assert (found["status"], found["reason"]) == ("unreachable", "'drift.look' is not available.")


def test_an_answer_of_any_size_becomes_a_small_one() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = {"y": deep}
    huge = state(
        changes={
            "a": "z" * 10**6,
            "b": list(range(10**4)),
            "c": deep,
            "d": {str(n): n for n in range(999)},
        }
    )
    found = findings.row(answer(*[huge] * 500, more=7, reason="r" * 10**6), now=NOW)
    assert len(json.dumps(found)) < 2_000_000
    assert len(found["drift"]) == findings.MOST_STATES
    assert found["more"] == 7 + 500 - findings.MOST_STATES


def test_control_characters_do_not_reach_a_terminal() -> None:
    found = row(
        state("a\x1b[31m\x07b\u202ec", comment="x\ry\x00", changes={"k\x1b": "v\x9b"}),
        reason="\x1b]0;x",
    )
    shown = findings.table(document(pi=found)) + findings.diff("pi", found)
    assert not {char for char in shown if not char.isprintable()} - {"\n"}


def test_everything_a_node_says_is_masked_once_more() -> None:
    def mask(value: Any) -> Any:
        return json.loads(json.dumps(value).replace("hunter2", "***"))

    said = answer(
        state(comment="is hunter2", changes={"a": ["hunter2"]}, name="hunter2"), reason="hunter2"
    )
    assert "hunter2" not in json.dumps(findings.row(said, now=NOW, mask=mask))
    assert "hunter2" not in findings.row("error: hunter2", now=NOW, mask=mask)["reason"]


def test_numbers_of_a_node_are_numbers_of_bearable_size() -> None:
    vitals = {"temperature": "hot", "uptime": -5, "throttled": "x", "model": 4,
              "storage": {"free": 10**40, "size": None, "backend": "b" * 99, "path": ["/"]}}  # fmt: skip
    found = row(states=-3, seconds="x", vitals=vitals)
    assert (found["states"], found["seconds"]) == (0, 0.0)
    assert found["vitals"] == {
        "uptime": 0, "throttled": [],
        "storage": {"backend": "b" * 20, "path": "['/']", "free": 0, "size": 0},
    }  # fmt: skip
    good = {"temperature": 51.54, "throttled": ["throttled"], "model": "Pi 4", "uptime": 60}
    assert row(vitals=good)["vitals"] == {**good, "temperature": 51.5}


# --- words -------------------------------------------------------------------------------------------


def test_the_table_has_a_line_a_node_and_says_what_to_do() -> None:
    lines = findings.table(document(cp1=CLEAN, pi_01=DRIFTED, pi_02=GONE)).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["cp1", "clean"], ["pi-01", "drifted"], ["pi-02", "unreachable"],
    ]  # fmt: skip
    assert lines[2].endswith("base-sysctl")
    assert lines[-2] == "1 clean, 1 drifted, 1 unreachable; 4 s"
    assert "drift.diff pi-01" in lines[-1]


def test_what_follows_and_what_cannot_be_is_told_apart() -> None:
    found = row(state("a"), state("b", follows=["a"]), state("c", failed=True), more=2)
    assert findings.what(found) == "a, c (cannot be), 2 more, 1 that follow"


def test_a_diff_shows_files_values_and_reasons() -> None:
    changes = {
        "file": {"old": "a = 1\nb = 2\n", "new": "a = 1\nb = 3\n"},
        "net.ipv4.ip_forward": {"old": "0", "new": "1"},
        "held": {"old": None, "new": ["kubelet"]},
        "enabled": "x.service",
        "deep": {"diff": "-x\n+y"},
    }
    lines = findings.change_lines(changes)
    assert lines == [
        "file:", "@@ -1,2 +1,2 @@", " a = 1", "-b = 2", "+b = 3", "- net.ipv4.ip_forward: 0",
        "+ net.ipv4.ip_forward: 1", '+ held: ["kubelet"]', "enabled: x.service", "-x", "+y",
    ]  # fmt: skip
    shown = findings.diff("pi-01", row(state(changes=changes, failed=True, follows=["z"])))
    assert "it cannot be as it should:" in shown
    assert "follows from: z" in shown


def test_what_salt_says_of_every_file_is_left_out() -> None:
    comment = (
        "The file /x is set to be changed\n"
        "Note: No changes made, actual changes may\nbe different due to other states."
    )
    found = row(state(comment=comment, changes={"diff": "--- \n+++ \n@@ -1 +1 @@\n-a\n+b\n"}))[
        "drift"
    ][0]
    assert findings.notes(found) == ["The file /x is set to be changed"]
    assert findings.change_lines(found["changes"]) == ["@@ -1 +1 @@", "-a", "+b"]


def test_no_news_is_the_same_verdict_whatever_the_texts_say() -> None:
    before = findings.verdict(document(a=DRIFTED, b=GONE)["nodes"])
    other = row(state(comment="said in other words"))
    assert findings.verdict({"b": GONE, "a": other, "c": CLEAN, "d": BUSY}) == before
    assert findings.verdict({"a": row(state("more"), state()), "b": GONE}) != before


def test_a_summary_is_short() -> None:
    found = findings.summary(document(a=row(*[state(f"{n}" * 50) for n in range(60)]), b=GONE))
    assert len(json.dumps(found)) < 4000
    assert found["unchecked"] == {"b": "unreachable: it does not answer"}
    assert findings.told({**found, "kind": "check"}).startswith("1 drifted, 1 unreachable (a: ")


def test_what_a_fix_did_is_shown_as_the_node_masked_it() -> None:
    before = row(state("a file", name="/x", changes={"diff": "<masked>"}))
    returned = {
        "node_|-other_|-other_|-enabled": {
            "__id__": "other", "name": "other", "__sls__": "s", "__run_num__": 2, "result": True,
            "changes": {"secret": "value"}, "comment": "done",
        },
        "file_|-a file_|-/x_|-managed": {
            "__id__": "a file", "name": "/x", "__sls__": "s", "__run_num__": 1, "result": True,
            "changes": {"diff": "secret value"}, "comment": "",
        },
        "file_|-b_|-/y_|-managed": {"__id__": "b", "__run_num__": 0, "result": True, "changes": {}},
    }  # fmt: skip
    done = findings.changed(returned, before)
    assert [(found["id"], found["function"], found["changes"]) for found in done] == [
        ("a file", "file.managed", {"diff": "<masked>"}), ("other", "node.enabled", {}),
    ]  # fmt: skip


# --- for other programs ------------------------------------------------------------------------------


def test_junit_has_a_suite_a_node_and_a_failed_case_a_state() -> None:
    root = ET.fromstring(findings.junit(document(cp1=CLEAN, pi_01=DRIFTED, pi_02=GONE)))
    suites = {suite.get("name"): suite for suite in root.iterfind("testsuite")}
    assert [suites[name].get("failures") for name in ("cp1", "pi-01", "pi-02")] == ["0", "1", "0"]
    assert [suites[name].get("errors") for name in ("cp1", "pi-01", "pi-02")] == ["0", "0", "1"]
    failure = suites["pi-01"].find("testcase/failure")
    assert failure is not None and failure.text == "-a\n+b"
    assert suites["pi-01"].find("testcase[@name='base-sysctl']") is not None


def test_junit_is_xml_whatever_the_nodes_say() -> None:
    nasty = "<&\"']]>\ud800\x00\x0b\ufffe\U0001f600"
    found = row(state(nasty, comment=nasty, changes={nasty: nasty}))
    root = ET.fromstring(findings.junit(document(pi=found)).encode())
    case = root.find(".//testcase")
    assert case is not None and "<&\"']]>" in str(case.get("name"))


def test_metrics_are_in_the_text_format() -> None:
    nodes = {"cp1": CLEAN, "pi-01": row(state(), state("b"), more=3), 'x"\\\n': GONE}
    text = findings.metrics(
        nodes, {"exit_code": 2, "interval_seconds": 3600.0, "check_duration_seconds": None}
    )
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['saltberry_drift_nodes{status="drifted"}'] == "1"
    assert samples['saltberry_drift_nodes{status="render error"}'] == "0"
    assert samples["saltberry_drift_states"] == "5"
    assert samples['saltberry_drift_node_states{node="pi-01"}'] == "5"
    assert samples[r'saltberry_drift_node_states{node="x\"\\\n"}'] == "0"
    assert samples["saltberry_drift_exit_code"] == "2"
    assert "check_duration_seconds" not in text
    assert text.endswith("\n")
    for name in {line.split("{")[0].split()[0] for line in samples}:
        assert f"# TYPE {name} gauge" in text
