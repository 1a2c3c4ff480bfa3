#!/bin/bash
# Runs on a Pi's first boot from its card (the folder saltberry/ of the boot partition) and makes it a
# minion.
#
# card.env beside this script says who the Pi is: lines of ID=, MASTER= and MIRROR=. To be run again at
# each boot for as long as card.env is there: a power cut at any point costs one more run. Salt comes
# from the mirror; when that stays away, or has not what the card asks for, from the Python package
# index, by the hashes on the card. When the minion runs, the private key is taken off the card, which
# anyone can read, and card.env becomes card.done. What happened is in firstboot.log beside this script,
# so that it can be read in another computer, and on standard output for the journal.
set -euo pipefail

CARD=${SALTBERRY_CARD:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
ROOT=${SALTBERRY_ROOT:-}
PKI=$ROOT/etc/salt/pki/minion
INDEX=${SALTBERRY_INDEX:-https://pypi.org/simple}
# Seconds to wait for the mirror, before the internet is asked and after it did not answer either
WAIT=${SALTBERRY_MIRROR_WAIT:-600}
PATIENCE=${SALTBERRY_MIRROR_PATIENCE:-180}

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

# Args: URL
answers() {
    python3 - "$1" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=10).read(1)
PY
}

# Make this Pi a minion. Args: where Salt comes from, as minion.sh takes it
install_minion() {
    bash "$CARD/minion.sh" --id "$ID" --master "$(card_value MASTER)" \
        --master-pub "$CARD/master.pub" "${KEY_ARGS[@]}" "$@"
}

from_mirror() { install_minion --mirror "$MIRROR" --lock "$CARD/salt.lock" --wait "$1"; }

# Fetch what the mirror would have had, and install from that. wheelhouse.sh takes only files whose
# hashes are in the card's lock, so the index is not trusted either.
from_index() {
    local wheels=$ROOT/var/lib/saltberry/wheels
    [[ -e $CARD/upstream.lock ]] || return 1
    answers "$INDEX/pip/" || return 1
    say "fetching Salt from $INDEX"
    bash "$CARD/wheelhouse.sh" "$wheels" --lock "$CARD/upstream.lock" --arch auto \
        --python "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || return 1
    install_minion --wheels "$wheels" || return 1
    rm -rf "$wheels"
}

# The mirror first, with some patience: at power-on of a whole rack it is often the last to be up.
install_from_somewhere() {
    local failed=0
    from_mirror "$PATIENCE" || failed=$?
    ((failed != 0)) || return 0
    ((failed != 2)) || die "the card is not right (see above): make it again"
    if from_index; then return; fi
    say "no other source of Salt answers: waiting for $MIRROR"
    from_mirror "$WAIT"
}

# The card had no key: the minion made its own, and someone has to let it in.
say_fingerprint() {
    local tries=60 print
    [[ ! -e $CARD/minion.pub ]] || return 0
    until [[ -s $PKI/minion.pub ]] || ((--tries == 0)) || [[ -n $ROOT ]]; do sleep 1; done
    [[ -s $PKI/minion.pub ]] || return 0
    # As salt-call --local key.finger prints it
    print=$(sed '/^-----/d;/^[[:space:]]*$/d' "$PKI/minion.pub" | sha256sum | cut -d' ' -f1 | sed 's/../&:/g;s/:$//')
    say "this Pi made its own key. On the master: salt-run enrol.accept $ID fingerprint=$print"
}

# Overwritten, then removed. A flash card may keep the old blocks where only its controller sees them,
# which is why a card is for one Pi, and a lost card's key gets replaced on the master.
remove_secret() {
    [[ -e $CARD/minion.pem ]] || return 0
    cmp -s "$CARD/minion.pem" "$PKI/minion.pem" ||
        die "the key on the card is not the one that was installed"
    shred --force --remove=unlink "$CARD/minion.pem" 2>/dev/null || rm -f "$CARD/minion.pem"
    say "took the private key off the card"
}

# cloud-init keeps copies of all that it was given. It was never given the key; if somebody put the
# card's files into user-data all the same, the copies go as well. Args: a line of the key
remove_copies() {
    local copy
    [[ -n $1 && -d $ROOT/var/lib/cloud ]] || return 0
    while IFS= read -r -d '' copy; do
        shred --force --remove=unlink "$copy" 2>/dev/null || rm -f "$copy"
        say "removed a copy of the key: $copy"
    done < <(grep -rlZF -e "$1" "$ROOT/var/lib/cloud" 2>/dev/null || true)
}

first_boot() {
    local secret
    if [[ ! -e $CARD/card.env ]]; then
        say "nothing to do: there is no $CARD/card.env"
        return
    fi
    ID=$(card_value ID)
    MIRROR=$(card_value MIRROR)
    [[ $ID =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "card.env: ID='$ID' is no host name: make the card again"
    say "$(date -u '+%F %T') UTC: this Pi becomes $ID"
    set_hostname
    choose_keys
    install_from_somewhere || die "Salt could not be installed (see above); this is tried again"
    running || die "salt-minion does not keep running: journalctl -u salt-minion"
    secret=$(sed -n 6p "$CARD/minion.pem" 2>/dev/null || true)
    remove_secret
    remove_copies "$secret"
    say_fingerprint
    mv "$CARD/card.env" "$CARD/card.done"
    sync
    say "done: $ID is a minion of $(sed -n 's/^MASTER=//p' "$CARD/card.done" | tail -n 1)"
}

# The log is a help, not a condition: the card may be full or read-only.
first_boot 2>&1 | tee -a "$CARD/firstboot.log" || exit "${PIPESTATUS[0]}"
