"""What this machine lacks, asked on one that has nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import doctor


def test_a_machine_without_any_of_the_packages_is_examined_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.examine(tmp_path)
    texts = " ".join(finding.text for finding in found)
    assert "iptables" in texts and "podman" in texts
    assert not [finding for finding in found if finding.fatal and "iptables" in finding.text]
