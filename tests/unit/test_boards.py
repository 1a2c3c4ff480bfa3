"""Grafana's boards: made by tools/boards, and understood by Grafana's own library without a loss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "salt/services/metrics/boards"
BOARDS = sorted(FOLDER.glob("*.json"))


def test_the_boards_are_what_the_tool_makes() -> None:
    argv = [sys.executable, REPO / "tools/boards", "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(BOARDS) == 5


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """What of a document is not in another, or is there otherwise."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            said
            for key, value in given.items()
            for said in (
                lost(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"]
            )
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [said for n, (one, other) in pairs for said in lost(one, other, f"{path}[{n}]")]
    return [] if given == kept else [f"{path}: {given!r}, {kept!r}"]


def through_the_library(board: dict[str, Any]) -> dict[str, Any]:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    made = models.Dashboard.from_json(board)
    found: dict[str, Any] = json.loads(encoder.JSONEncoder(sort_keys=True).encode(made))
    return found


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_grafanas_own_library_knows_all_that_is_in_a_board(path: Path) -> None:
    board = json.loads(path.read_text())
    assert lost(board, through_the_library(board)) == []
    wrong = {**board, "panles": []}
    assert lost(wrong, through_the_library(wrong)) == [".panles"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_have_ids_and_places_of_their_own(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
