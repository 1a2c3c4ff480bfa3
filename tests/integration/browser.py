"""Chromium without a screen, installed on first use."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from lab import doctor

PACKAGES = {
    "chromium": "chromium",
    "fonts-dejavu-core": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str:
    """The path of a Chromium; installs Debian's when there is none."""
    for _ in range(2):
        for name in PROGRAMS:
            if found := shutil.which(name):
                return found
        try:
            doctor.install_packages(PACKAGES)
        except (subprocess.CalledProcessError, OSError) as exc:
            if os.geteuid() != 0:
                pytest.skip("only root can install Chromium")
            pytest.fail(f"Chromium could not be installed: {getattr(exc, 'output', exc)}")
    pytest.fail("Chromium was installed, and is not on the PATH")


def run(folder: Path, url: str, *options: str) -> str:
    """Open a page; return what Chromium prints."""
    argv = [
        program(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", *options, url,
    ]  # fmt: skip
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=150).stdout


def dom(folder: Path, url: str, *options: str) -> str:
    """The document as it is after everything in it has run."""
    return run(folder, url, "--dump-dom", *options)


def corner(folder: Path, url: str, width: int, *, dark: bool = False) -> tuple[int, int, int]:
    """The colour of a screenshot's first pixel; the picture is left in the folder."""
    picture = folder / f"{width}-{'dark' if dark else 'light'}.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    run(folder, url, f"--window-size={width},1200", f"--screenshot={picture}", *scheme)
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels, at = b"", 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            pixels += data[at + 8 : at + 8 + size]
        at += size + 12
    # Each row begins with its filter, and no filter changes the first pixel of the first row
    row = zlib.decompress(pixels)
    return row[1], row[2], row[3]
