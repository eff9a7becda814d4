#!/bin/busybox sh
# Process 1 of the guest of `cargo xtask vm`: makes hosts of its network cards, runs sluice on one of
# them and says for each check PASS or FAIL. Kernel messages go to the first serial port, this to the
# second.
#
#   eth0  the balancer, in the first namespace: sluice, XDP attached by the driver
#   eth1  client   eth2  member a   eth3  member b, each in a namespace; the members take packets
#                                   apart with the kernel's tunl0, sit0 and ip6tnl0
#
# All four are virtio cards on one link.

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /etc
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/null >/dev/ttyS1 2>&1
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run

VIP=203.0.113.10
SIX=2001:db8:100::10
MIXED=2001:db8:100::11

# check NAME COMMAND...: how the command ends, and what it said if it failed.
check() {
    local what=$1
    shift
    if "$@" >/tmp/said 2>&1; then
        echo "PASS $what"
    else
        echo "FAIL $what"
        tail -n 60 /tmp/said | cut -c 1-400 | sed 's/^/    /'
    fi
}

# until_true COMMAND...: retries for half a minute.
until_true() {
    local left=60
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        usleep 500000
    done
}

finish() {
    echo END
    sync
    poweroff -f
    sleep 60
}

for module in /modules/*.ko; do
    insmod "$module" || echo "FAIL module $module"
done

echo "KERNEL $(uname -r)"

# ---- every program, by BPF_PROG_TEST_RUN, held against lb-common

export SLUICE_BPF_OBJECT=/sluice.bpf.o CI=true
for test in $(cat /tests/list); do
    check "$test" "/tests/${test%%:*}" --exact "${test#*:}" --nocapture
done

# ---- hosts

host() { # NAME CARD LAST-BYTE
    local own there=
    own=$(readlink /proc/self/ns/net)
    unshare -n sleep 100000 &
    eval "$1=$!"
    # Empty: it cannot be read, or not yet.
    until [ -n "$there" ] && [ "$there" != "$own" ]; do
        usleep 10000
        there=$(readlink /proc/$!/ns/net)
    done
    ip link set "$2" netns $! && at "$1" address "$2" "$3"
}

at() { # NAME COMMAND...: in that host
    local pid
    eval "pid=\$$1"
    shift
    nsenter -t "$pid" -n /bin/sh /functions "$@"
}

cat >/functions <<'FUNCTIONS'
address() { # CARD LAST-BYTE
    for each in all default; do
        echo 0 >/proc/sys/net/ipv6/conf/$each/accept_dad
        echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter
    done
    ip link set lo up
    ip address add 192.0.2.$2/24 dev $1
    ip link set $1 up
    ip address add 2001:db8::$2/64 dev $1
}
shared() { # VIPs: this host is a member
    for vip in "$@"; do ip address add $vip dev lo; done
    echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
    echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce
    for tunnel in tunl0 sit0 ip6tnl0; do
        echo 0 >/proc/sys/net/ipv4/conf/$tunnel/rp_filter
        ip link set $tunnel up
    done
}
taken() { # TUNNEL: it took packets apart
    awk -v name="$1:" '$1 == name { print $3 }' /proc/net/dev
}
"$@"
FUNCTIONS

. /functions true

member() { # NAME
    at $1 shared $VIP/32 $SIX/128 $MIXED/128
    mkdir -p /www/$1/cgi-bin
    echo $1 >/www/$1/name
    printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\nwc -c\n' >/www/$1/cgi-bin/count
    chmod 755 /www/$1/cgi-bin/count
    at $1 httpd -p 8080 -h /www/$1
}

hosts() {
    address eth0 1 && host client eth1 10 && host a eth2 21 && host b eth3 22 &&
        at client ip route add $VIP via 192.0.2.1 &&
        at client ip route add 2001:db8:100::/64 via 2001:db8::1 &&
        member a && member b
}
check "client and members are there" hosts

# ---- sluice

sluice() {
    /sluice "$@"
}

# It serves, or it is dead.
settled() {
    ! kill -0 $control || { sluice status >/tmp/status && ask http://192.0.2.1/name; }
}

start() {
    /sluice run -f /guest.conf >/tmp/sluice.log 2>&1 &
    control=$!
    until_true settled >/dev/null 2>&1 && kill -0 $control && return 0
    cat /tmp/sluice.log /tmp/status
    return 1
}

ask() { # URL: what it is answered
    at client timeout 10 wget -q -O - "$1"
}

# names URL COUNT: who answers, each once.
names() {
    local n=0
    while [ $n -lt $2 ]; do
        ask "$1" || return 1
        n=$((n + 1))
    done | sort | uniq | tr '\n' ' '
}

# both URL: connections reach both members. One in ten rings would give 8 to one by chance: up to 40.
both() {
    local seen= round
    for round in 1 2 3 4 5; do
        seen="$seen $(names "$1" 8)" || return 1
        case "$seen" in *a*b* | *b*a*) return 0 ;; esac
    done
    echo "answered by: $seen"
    sluice service list
    return 1
}

only_b() {
    local seen
    seen=$(names "$1" 10)
    echo "answered by: $seen"
    [ "$seen" = "b " ]
}

native() {
    grep eth0 /tmp/status
    grep -q 'eth0.*native' /tmp/status
}

upload() { # ADDRESS: more than fits a packet that is then wrapped: the client has to be told
    local said
    said=$({
        printf 'POST /cgi-bin/count HTTP/1.0\r\nContent-Length: 300000\r\n\r\n'
        head -c 300000 /dev/zero
    } | at client timeout 30 nc $1 8080 | tail -n 1)
    echo "arrived: $said"
    [ "$said" = 300000 ] && return 0
    sluice service list
    return 1
}

unwrapped() { # TUNNEL: both members' has seen packets
    local name packets
    for name in a b; do
        packets=$(at $name taken $1)
        echo "$name $1 $packets"
        [ "$packets" -gt 0 ] || return 1
    done
}

check "sluice doctor finds nothing in the way" sluice doctor -f /guest.conf
check "sluice loads every program and serves" start
check "attached by the driver of virtio-net" native
check "requests are proxied to both members" both http://192.0.2.1/name
check "flows reach both members, IPv4 in IPv4" both http://$VIP:8080/name
check "tunl0 took them apart" unwrapped tunl0
check "flows reach both members, IPv6 in IPv6" both http://[$SIX]:8080/name
check "ip6tnl0 took them apart" unwrapped ip6tnl0
check "flows reach both members, IPv6 in IPv4" both http://[$MIXED]:8080/name
check "sit0 took them apart" unwrapped sit0
check "a large upload goes through the tunnel" upload $VIP
check "the same over IPv6" upload $SIX

drained() {
    sluice member drain app a
    only_b http://$VIP:8080/name && only_b http://192.0.2.1/name
}
check "one drain moves flows and requests" drained
sluice member enable app a >/dev/null

killed() {
    kill -9 $control $(pidof sluice)
    until_true [ -z "$(pidof sluice)" ]
    both http://$VIP:8080/name
}
check "flows go on without the daemon" killed
check "a new start adopts what is there" start
check "and serves" both http://192.0.2.1/name

check "sluice stops" sluice stop
check "and detaches" sluice detach --yes
finish
