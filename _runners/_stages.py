"""Read the stages of an orchestration (``salt/orch/*.sls``), and run them one after the other.

Pure Python, no Salt. ``salt-run state.orchestrate orch.join`` does the same with the same file. But it makes
a client, a minion and all runners anew for each stage, which takes two seconds of a PC's processor for a
node, and several times that of a Pi's, while thirty of them wait for their turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_RUNNER = "salt.runner"


class Stage(NamedTuple):
    """One step: a function of a runner, that says ``{"ok": bool, ...}``."""

    id: str
    function: str
    kwargs: dict[str, Any]


class Outcome(NamedTuple):
    """What became of one orchestration."""

    ok: bool
    stage: str
    """Id of the stage that failed, "" when all went well or none was reached."""
    reason: str
    """One plain line, "" when all went well."""
    seconds: dict[str, float]
    """Seconds that each stage took, in the order they ran."""


def read(compiled: Any) -> list[Stage]:
    """Return the stages of an orchestration, in the order of its file.

    Args:
        compiled: what its SLS renders to.

    Raises:
        ValueError: there is something in it that is no stage of ours; the text names it.
    """
    if not isinstance(compiled, Mapping) or not compiled:
        raise ValueError("it has no stages")
    return [_stage(str(name), body) for name, body in compiled.items()]


def _stage(name: str, body: Any) -> Stage:
    arguments = body.get(_RUNNER) if isinstance(body, Mapping) and len(body) == 1 else None
    if not isinstance(arguments, list) or not all(isinstance(one, Mapping) for one in arguments):
        raise ValueError(f"{name} is no {_RUNNER}: other states are for state.orchestrate")
    said = {key: value for one in arguments for key, value in one.items()}
    kwargs = said.get("kwarg") or {}
    if not isinstance(said.get("name"), str) or not isinstance(kwargs, Mapping):
        raise ValueError(f"{name} has no name of a function, or its kwarg is no mapping")
    return Stage(name, said["name"], dict(kwargs))


def run(
    stages: list[Stage],
    functions: Mapping[str, Callable[..., Any]],
    why: Callable[[Any], str],
) -> Outcome:
    """Run stages until one fails.

    Args:
        stages: what to run.
        functions: by their names, ``rack.join``.
        why: makes one plain line of what a failed stage said, or of its exception.
    """
    seconds: dict[str, float] = {}
    for stage in stages:
        began = time.monotonic()
        if stage.function not in functions:
            return Outcome(False, stage.id, f"there is no function {stage.function}", seconds)
        try:
            said = functions[stage.function](**stage.kwargs)
        except Exception as exc:
            said = f"{type(exc).__name__}: {exc}"
        seconds[stage.id] = round(time.monotonic() - began, 1)
        if not isinstance(said, Mapping) or not said.get("ok"):
            return Outcome(False, stage.id, why(said) or "failed without saying why", seconds)
    return Outcome(True, "", "", seconds)
