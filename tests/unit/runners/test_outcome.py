"""One plain line out of what nodes return. The shapes below are copied from real returns."""

from __future__ import annotations

from typing import Any

import pytest
from saltberry_ext.runners import _outcome as outcome

TRACE = """Exception occurred in runner rack.join: Traceback (most recent call last):
  File "/opt/saltberry/salt/lib/python3.11/site-packages/salt/client/mixins.py", line 387, in low
    data["return"] = func(*args, **kwargs)
  File "/srv/saltberry/repo/_runners/rack.py", line 700, in join
salt.exceptions.SaltClientError: the master went away
"""


def test_an_answer_gives_its_problems() -> None:
    problems = ["port 10250 is taken by squatter", "the clock is 4 h off"]
    returned = {"ok": False, "problems": problems, "warnings": ["slow card"]}
    assert outcome.answer(returned) == "port 10250 is taken by squatter; the clock is 4 h off"


def test_a_state_run_gives_the_first_state_that_failed_by_itself() -> None:
    returned = {
        "service_|-kubelet_|-kubelet_|-running": {
            "__id__": "kubelet", "__run_num__": 2, "result": False, "changes": {},
            "comment": "One or more requisite failed: kubernetes.packages",
        },
        "pkg_|-packages_|-packages_|-installed": {
            "__id__": "packages", "__run_num__": 1, "result": False, "changes": {},
            "comment": "Problem encountered installing package(s).\n\nerrors:\n    - no space left",
        },
        "test_|-ok_|-ok_|-nop": {"__id__": "ok", "__run_num__": 0, "result": True, "comment": "fine"},
    }  # fmt: skip
    assert outcome.states(returned) == (
        "packages: Problem encountered installing package(s). errors: - no space left"
    )


def test_a_traceback_is_reduced_to_what_happened() -> None:
    assert outcome.answer(TRACE) == "the master went away"


def test_a_state_run_that_did_not_compile() -> None:
    errors = ["Rendering SLS 'base:containerd' failed: Jinja variable 'x' is undefined"]
    assert outcome.states(errors) == errors[0]


def test_an_exception_in_a_state_keeps_the_state_and_all_lines_of_the_message() -> None:
    trace = TRACE + "give it a minute\n"
    returned = {
        "x": {"__id__": "joined", "result": False, "comment": f"An exception occurred: {trace}"}
    }
    assert outcome.states(returned) == "joined: the master went away give it a minute"
    broken = trace.replace("salt.exceptions.SaltClientError", "KeyError")
    assert outcome.plain(broken) == "KeyError: the master went away give it a minute"


def test_no_token_and_no_key_gets_into_a_reason() -> None:
    text = "token abcdef.0123456789abcdef refused -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"
    line = outcome.plain(text)
    assert "0123456789abcdef" not in line
    assert "MIIE" not in line
    assert outcome.plain("-----BEGIN PRIVATE KEY-----\nMIIEcut") == "<key>"


def test_a_reason_is_one_line_that_no_terminal_obeys() -> None:
    assert outcome.plain("a\n\tb\x1b[2J\x07c") == "a b [2J c"


def test_a_reason_has_an_end() -> None:
    line = outcome.plain("word " * 500)
    assert len(line) <= outcome.LONGEST
    assert line.endswith("…")


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("'node.preflight' is not available.", "'node.preflight' is not available."),
        (["one", "two"], "one; two"),
        ({"ready": False, "reason": "kubelet stopped"}, "kubelet stopped"),
        ({"ready": False}, "failed without saying why"),
    ],
)
def test_what_a_function_says(returned: Any, text: str) -> None:
    assert outcome.answer(returned) == text


def test_states_that_did_well_give_no_reason() -> None:
    assert outcome.states({"a": {"result": True}, "b": {"result": None}}) == ""
