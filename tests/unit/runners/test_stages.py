"""The stages of an orchestration's file, run one after the other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader
import salt.template
from saltberry_ext.runners import _outcome, _stages

ORCH = Path(__file__).resolve().parents[3] / "salt" / "orch"
JOIN = {
    "preflight": {"salt.runner": [{"name": "rack.preflight"}, {"kwarg": {"node": "pi-01"}}]},
    "join": {"salt.runner": [{"name": "rack.join"}, {"kwarg": {"node": "pi-01"}}]},
}


class Rack:
    def __init__(self, **answers: Any) -> None:
        self.answers, self.called = answers, []

    def functions(self) -> dict[str, Any]:
        return {f"rack.{name}": self._of(name) for name in self.answers}

    def _of(self, name: str) -> Any:
        def call(**kwargs: Any) -> Any:
            self.called.append((name, kwargs))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def run(self) -> _stages.Outcome:
        return _stages.run(_stages.read(JOIN), self.functions(), _outcome.answer)


def test_all_stages_run_in_the_order_of_the_file() -> None:
    rack = Rack(join={"ok": True}, preflight={"ok": True})
    done = rack.run()
    assert rack.called == [("preflight", {"node": "pi-01"}), ("join", {"node": "pi-01"})]
    assert done[:3] == (True, "", "")
    assert list(done.seconds) == ["preflight", "join"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"ok": False, "reason": "pi-01 does not answer"}, "pi-01 does not answer"),
        ({"ok": False, "problems": ["a", "b"]}, "a; b"),
        (None, "None"),
        (KeyError("nodes"), "KeyError: 'nodes'"),
        (
            RuntimeError("token abcdef.0123456789abcdef\nrefused"),
            "RuntimeError: token <token> refused",
        ),
    ],
)
def test_the_first_failure_ends_it_and_is_one_plain_line(said: Any, reason: str) -> None:
    rack = Rack(preflight=said, join={"ok": True})
    done = rack.run()
    assert [name for name, _ in rack.called] == ["preflight"]
    assert done[:3] == (False, "preflight", reason)
    assert list(done.seconds) == ["preflight"]


def test_a_stop_is_no_failure_of_a_stage() -> None:
    """SIGTERM leaves by SystemExit, so that what a stage has to clean up is cleaned up."""

    def stopped(**kwargs: Any) -> Any:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        _stages.run(_stages.read(JOIN), {"rack.preflight": stopped}, _outcome.answer)


def test_a_function_that_is_not_there_is_named() -> None:
    done = Rack(preflight={"ok": True}).run()
    assert done[:3] == (False, "join", "there is no function rack.join")


@pytest.mark.parametrize(
    ("compiled", "words"),
    [
        (None, "no stages"),
        ([], "no stages"),
        ({"x": {"salt.state": [{"tgt": "*"}]}}, "x is no salt.runner"),
        ({"x": {"salt.runner": [{"name": "rack.join"}], "test": ["nop"]}}, "x is no salt.runner"),
        ({"x": {"salt.runner": ["rack.join"]}}, "x is no salt.runner"),
        ({"x": {"salt.runner": [{"kwarg": {}}]}}, "x has no name"),
        ({"x": {"salt.runner": [{"name": "rack.join"}, {"kwarg": [1]}]}}, "x has no name"),
    ],
)
def test_what_is_no_orchestration_of_ours_is_refused(compiled: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _stages.read(compiled)


@pytest.mark.parametrize("role", ["worker", "control_plane"])
@pytest.mark.parametrize("name", [path.stem for path in sorted(ORCH.glob("*.sls"))])
def test_each_file_of_the_folder_is_one(name: str, role: str) -> None:
    """And its requisites say the same order, for those who run it by state.orchestrate."""
    task = {"node": "pi-01", "role": role, "control_plane": "cp1"}
    opts = {**salt.config.master_config(None), "pillar": {"task": task}}
    compiled = salt.template.compile_template(
        str(ORCH / f"{name}.sls"), salt.loader.render(opts, {}), "jinja|yaml", [], []
    )
    stages = _stages.read(compiled)
    assert all(stage.kwargs["node"] == "pi-01" for stage in stages)
    assert {stage.function.partition(".")[0] for stage in stages} == {"rack"}
    for before, stage in itertools.pairwise(stages):
        said = {
            key: value for one in compiled[stage.id]["salt.runner"] for key, value in one.items()
        }
        assert said["require"] == [{"salt": before.id}]
        assert said["failhard"] is True
