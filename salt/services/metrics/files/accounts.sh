#!/bin/sh
# accounts.sh DAYS: the database, how long it keeps figures, and who may what. Each time before InfluxDB
# starts, so that nobody ever reaches one that still takes anybody for its admin.
set -eu
/usr/bin/influxd -config /etc/influxdb/accounts.conf 2>/tmp/influxd.log &
server=$!
trap 'kill "$server"; wait "$server" || true' EXIT

# Statements come in by a pipe: in its arguments everybody on the node could read the passwords.
ask() { /usr/bin/influx -host 127.0.0.1; }

tries=0
until echo 'SHOW DATABASES' | ask >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ]; then
        cat /tmp/influxd.log
        exit 1
    fi
    sleep 0.5
done

echo 'CREATE DATABASE rack' | ask
echo "CREATE RETENTION POLICY kept ON rack DURATION ${1}d REPLICATION 1 DEFAULT" | ask >/dev/null 2>&1 || true
echo "ALTER RETENTION POLICY kept ON rack DURATION ${1}d DEFAULT" | ask
for name in admin collector grafana; do
    rights=''
    if [ "$name" = admin ]; then rights='WITH ALL PRIVILEGES'; fi
    password=$(cat "/run/accounts/$name")
    # Refused for one that is there already; its password is set in any case.
    echo "CREATE USER $name WITH PASSWORD '$password' $rights" | ask >/dev/null 2>&1 || true
    echo "SET PASSWORD FOR $name = '$password'" | ask
done
echo 'GRANT WRITE ON rack TO collector; GRANT READ ON rack TO grafana' | ask
