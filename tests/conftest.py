"""What every suite shares: where the daemons of pytest-salt-factories live, and quiet logging."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep Salt from replaying its deferred log records to a closed stderr when pytest exits."""
    import salt._logging

    salt._logging.shutdown_temp_handler()


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """Settings of pytest-salt-factories.

    The root is short on purpose: the daemons' unix sockets live below it, and a socket's path may
    not be longer than 107 bytes. Each run has its own, so that two runs do not meet.
    """
    root = Path(tempfile.mkdtemp(prefix="sb-", dir=tempfile.gettempdir()))
    yield {
        "root_dir": root,
        # our modules reach the daemons by the same folders as on a rack, not by injected code
        "code_dir": None,
        "inject_sitecustomize": False,
        "start_timeout": 120,
    }
    shutil.rmtree(root, ignore_errors=True)
