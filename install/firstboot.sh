#!/bin/bash
# Runs on a Pi's first boot from its card (the folder saltberry/ of the boot partition) and makes it a
# minion.
#
# card.env beside this script says who the Pi is: lines of ID=, MASTER= and MIRROR=. To be run again at
# each boot for as long as card.env is there: a power cut at any point costs one more run. When the
# minion runs with the card's key, the private key is taken off the card, which anyone can read, and
# card.env becomes card.done. What happened is in firstboot.log beside this script, so that it can be
# read in another computer, and on standard output for the journal.
set -euo pipefail

CARD=${SALTBERRY_CARD:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
ROOT=${SALTBERRY_ROOT:-}
PKI=$ROOT/etc/salt/pki/minion

say() { printf 'firstboot: %s\n' "$*"; }
die() { printf 'firstboot: %s\n' "$*"; exit 1; }

# A value of card.env. Read, not sourced: the card is what anyone can write to. Args: key
card_value() {
    sed -n "s/^$1=//p" "$CARD/card.env" | tail -n 1 | tr -d '\r"'
}

# The name of the Pi from now on, also in the line of /etc/hosts that Raspberry Pi OS has for itself.
set_hostname() {
    local hosts
    [[ $(cat "$ROOT/etc/hostname" 2>/dev/null) == "$ID" ]] || echo "$ID" >"$ROOT/etc/hostname"
    if grep -q '^127\.0\.1\.1[[:space:]]' "$ROOT/etc/hosts" 2>/dev/null; then
        hosts=$(sed "s/^127\.0\.1\.1[[:space:]].*/127.0.1.1\t$ID/" "$ROOT/etc/hosts")
        [[ $hosts == "$(cat "$ROOT/etc/hosts")" ]] || printf '%s\n' "$hosts" >"$ROOT/etc/hosts"
    fi
    [[ -n $ROOT || $(uname -n) == "$ID" ]] || hostname "$ID" ||
        say "the name $ID will be used from the next boot on"
}

# Sets KEY_ARGS for minion.sh: the card's keys, or none if they are already where they belong.
choose_keys() {
    KEY_ARGS=()
    if [[ -e $CARD/minion.pem ]]; then
        KEY_ARGS=(--keys "$CARD")
    elif [[ -e $CARD/minion.pub ]]; then
        # Cut off after the key was taken off the card
        cmp -s "$CARD/minion.pub" "$PKI/minion.pub" && [[ -s $PKI/minion.pem ]] ||
            die "the private key is no longer on this card, and this system does not have it:" \
                "make a new card for $ID"
    fi
}

running() { [[ -n $ROOT ]] || systemctl is-active --quiet salt-minion.service; }

# Overwritten, then removed. A flash card may keep the old blocks where only its controller sees them,
# which is why a card is for one Pi, and a lost card's key gets replaced on the master.
remove_secret() {
    [[ -e $CARD/minion.pem ]] || return 0
    cmp -s "$CARD/minion.pem" "$PKI/minion.pem" ||
        die "the key on the card is not the one that was installed"
    shred --force --remove=unlink "$CARD/minion.pem" 2>/dev/null || rm -f "$CARD/minion.pem"
    say "took the private key off the card"
}

first_boot() {
    local mirror
    if [[ ! -e $CARD/card.env ]]; then
        say "nothing to do: there is no $CARD/card.env"
        return
    fi
    ID=$(card_value ID)
    mirror=$(card_value MIRROR)
    [[ $ID =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "card.env: ID='$ID' is no host name: make the card again"
    say "$(date -u '+%F %T') UTC: this Pi becomes $ID"
    set_hostname
    choose_keys
    bash "$CARD/minion.sh" --id "$ID" --master "$(card_value MASTER)" --mirror "$mirror" \
        --lock "$CARD/salt.lock" --master-pub "$CARD/master.pub" "${KEY_ARGS[@]}"
    running || die "salt-minion does not keep running: journalctl -u salt-minion"
    remove_secret
    mv "$CARD/card.env" "$CARD/card.done"
    sync
    say "done: $ID is a minion of $(sed -n 's/^MASTER=//p' "$CARD/card.done" | tail -n 1)"
}

# The log is a help, not a condition: the card may be full or read-only.
first_boot 2>&1 | tee -a "$CARD/firstboot.log" || exit "${PIPESTATUS[0]}"
