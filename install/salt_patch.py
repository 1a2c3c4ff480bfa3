#!/usr/bin/env python3
"""Keep in memory the private key that signs a minion's messages. Run by the Python whose Salt it is for.

Salt 3008.3 reads and parses `minion.pem` for every message it signs (`salt.crypt.sign_message`): OpenSSL
checks an RSA key when it loads it, which takes 36 ms on a PC and several times that on a Pi. A highstate
asks the file server some hundred times, so half of its time went there. Public keys, and private keys for
decryption, are kept by Salt itself in the same way (`PublicKey.from_file`, `get_rsa_key`).

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
    return PrivateKey.from_file(privkey_path, passphrase).sign(message, algorithm)
"""
FAST = """\
    # Saltberry: the parsed key is kept, for as long as the file is the same (install/salt_patch.py).
    stat = os.stat(privkey_path)
    identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    kept = _signing_keys.get(privkey_path)
    if kept is None or kept[0] != (identity, passphrase):
        key = PrivateKey.from_file(privkey_path, passphrase)
        kept = _signing_keys[privkey_path] = ((identity, passphrase), key)
    return kept[1].sign(message, algorithm)


_signing_keys = {}
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
