#!/bin/sh
# Runs inside the container, as the only service of a real systemd. Facts go to /out/NAME, one file each.
cd /out || exit 1
state() { systemctl show -P "$2" "tapnet@$1"; }
links() { ip -o link | awk -F': ' '{print $2}' | sort | tr '\n' ' '; }
# until SECONDS CONDITION...: poll, bounded
until_() { n=$(($1 * 20)); shift; while ! "$@"; do n=$((n - 1)); [ $n -gt 0 ] || return 1; sleep 0.05; done; }
is() { [ "$(state "$1" ActiveState)" = "$2" ]; }

links > links.before

systemctl start tapnet@lab 2> lab.start.err; echo $? > lab.start
tapnet monitor -i lab info network > lab.network 2>&1; echo $? > lab.network.status
state lab ActiveState > lab.active
state lab StatusText > lab.text
state lab NRestarts > lab.restarts
links > lab.links
ls /run/tapnet > lab.sockets

# A monitor with wait=on holds start-up: the unit must not be ready before its client has come.
systemctl start --no-block tapnet@slow
until_ 20 test -S /run/slow.mon
state slow ActiveState > slow.before
echo | timeout 20 nc -U -q 0 /run/slow.mon > slow.greeting
until_ 20 is slow active; state slow ActiveState > slow.after
tapnet ps > ps

for name in lab slow; do
    systemctl stop tapnet@$name; echo $? > $name.stop
    state $name ActiveState > $name.stopped
    state $name Result > $name.result
    state $name ExecMainStatus > $name.exit
done
ls -A /run/tapnet > sockets.after
links > links.after

systemctl start tapnet@bad 2> /dev/null; echo $? > bad.start
state bad ExecMainStatus > bad.exit
state bad NRestarts > bad.restarts
journalctl --no-pager -q -o cat -u 'tapnet@*' > journal 2>&1
systemctl --failed --no-legend --plain list-units | awk '{print $1}' > failed
