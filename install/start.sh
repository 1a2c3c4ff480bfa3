#!/bin/bash
# Runs from a Pi's card at boot: has firstboot.sh run by systemd, at this boot and at each one until it
# is done. Called by cloud-init (bootcmd) or, with --no-start, by firstrun.sh before a restart.
set -euo pipefail

CARD=${SALTBERRY_CARD:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
ROOT=${SALTBERRY_ROOT:-}
UNIT=saltberry-firstboot.service
FILE=$ROOT/etc/systemd/system/$UNIT

if [[ ! -e $CARD/card.env ]]; then
    # Done at an earlier boot: nothing of it stays
    if [[ -e $FILE ]]; then
        systemctl ${ROOT:+--root "$ROOT"} --quiet disable "$UNIT" || true
        rm -f "$FILE"
    fi
    exit 0
fi
if ! cmp -s "$CARD/$UNIT" "$FILE"; then
    mkdir -p "$(dirname "$FILE")"
    cp "$CARD/$UNIT" "$FILE.new"
    chmod 644 "$FILE.new"
    sync "$FILE.new"
    mv "$FILE.new" "$FILE"
fi
systemctl ${ROOT:+--root "$ROOT"} --quiet enable "$UNIT"
# Raspberry Pi OS comes with ssh off; a card with a key of a person means it to be on.
if grep -qs '^SSH=yes' "$CARD/card.env"; then
    systemctl ${ROOT:+--root "$ROOT"} --quiet enable ssh.service || true
fi
if [[ -z $ROOT && ${1:-} != --no-start ]]; then
    systemctl daemon-reload
    # Not waited for: it waits for the network, and this runs before that
    systemctl start --no-block "$UNIT"
    if grep -qs '^SSH=yes' "$CARD/card.env"; then systemctl start --no-block ssh.service || true; fi
fi
