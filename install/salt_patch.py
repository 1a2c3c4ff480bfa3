#!/usr/bin/env python3
"""Keep a minion's private key in memory once it is parsed. Run by the Python whose Salt it is for.

OpenSSL checks an RSA key when it loads it, which takes 36 ms on a PC and several times that on a Pi. Salt
3008.3 does that for every message that it signs (`salt.crypt.sign_message`), some hundred in a highstate,
and again for each of the connections that a job opens (`AsyncAuth.get_keys`). Public keys, and the master's
private one, are kept by Salt itself in a like way (`PublicKey.from_file`, `get_rsa_key`).

What is kept goes by the key's own text, so that another key is another one at once. A job is a fork of the
minion and finds the key parsed.

Does nothing the second time. A Salt that has other words there (it is mended upstream, or moved) is left
as it is, and still works. A daemon that runs keeps the old code until it is started again.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

SLOW = """\
class PrivateKey(BaseKey):
    def __init__(self, key_bytes, passphrase=None):
        log.debug("Loading private key")
        if passphrase:
            password = passphrase.encode()
        else:
            password = None
        try:
            self.key = serialization.load_pem_private_key(key_bytes, password=password)
"""
FAST = """\
# Saltberry: a key that was parsed is kept (install/salt_patch.py).
import functools


@functools.lru_cache(maxsize=8)
def _parsed_private_key(key_bytes, password):
    return serialization.load_pem_private_key(key_bytes, password=password)


class PrivateKey(BaseKey):
    def __init__(self, key_bytes, passphrase=None):
        log.debug("Loading private key")
        if passphrase:
            password = passphrase.encode()
        else:
            password = None
        try:
            self.key = _parsed_private_key(key_bytes, password)
"""


def patch(path: Path) -> str:
    """Mend the `crypt.py` of a Salt.

    Returns: `patched` now, `unchanged` since it was patched before, `unknown` when it has other words.
    """
    if not path.is_file():
        return "unknown"
    text = path.read_text(encoding="utf-8")
    if FAST in text:
        return "unchanged"
    if text.count(SLOW) != 1:
        return "unknown"
    # In one step: a minion may be reading it, and the power may fail.
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text.replace(SLOW, FAST))
        file.flush()
        os.fsync(file.fileno())
    Path(new).chmod(path.stat().st_mode)
    Path(new).replace(path)
    return "patched"


def main() -> int:
    found = importlib.util.find_spec("salt")
    if found is None or found.origin is None:
        print(f"salt_patch: {sys.executable} has no Salt", file=sys.stderr)
        return 1
    print(patch(Path(found.origin).parent / "crypt.py"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
