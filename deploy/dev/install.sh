#!/bin/sh
# Installs what meshfabric is built and tested with on a Debian 12 machine, as root. Repeating it changes nothing.
#
# From the machine's own release by apt; what Debian 12 has too old comes from newer
# suites of the same mirror and is unpacked into build/deb, so that nothing on the
# machine is upgraded:
#   wireguard-go  bookworm-backports: the release's build has no offloads and a quarter of the throughput
#   etcd 3.5      trixie: the store is tested with 3.4 and 3.5
set -eu
cd "$(dirname "$0")/../.."
me=install
. deploy/dev/debian.sh

install bpftool bridge-utils clang-19 clang-format-19 etcd-client etcd-server ethtool iperf3 iproute2 iputils-ping \
	libbpf-dev libbpf1 linux-libc-dev make netcat-openbsd nftables openssl procps python3 python3-venv tcpdump tshark \
	util-linux wireguard-tools

# unpack SUITE PACKAGE FILE: FILE of PACKAGE lands in build/deb.
unpack() {
	[ -x "build/deb/$3" ] && return
	echo "install: $2 from $1 into build/deb"
	mkdir -p build/deb
	enter_suite "$1"
	unpack_here build/deb "$2"
	leave_suite
}
unpack bookworm-backports wireguard-go usr/bin/wireguard-go
unpack trixie etcd-server usr/bin/etcd
