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

PACKAGES="bpftool bridge-utils clang-19 clang-format-19 etcd-client etcd-server ethtool iperf3 iproute2 iputils-ping
libbpf-dev libbpf1 linux-libc-dev make netcat-openbsd openssl procps python3 python3-venv tcpdump util-linux wireguard-tools"

[ "$(id -u)" = 0 ] || { echo "install: not root: run it as root, e.g. with sudo" >&2; exit 1; }

missing=""
for package in $PACKAGES; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
	echo "install: $(echo $missing)"
	apt-get update -qq
	# No service of these packages is wanted on the machine itself.
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.meshfabric
	chmod +x /usr/sbin/policy-rc.d.meshfabric
	[ -e /usr/sbin/policy-rc.d ] || { ln -s policy-rc.d.meshfabric /usr/sbin/policy-rc.d; linked=yes; }
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null || failed=yes
	[ "${linked:-}" = yes ] && rm /usr/sbin/policy-rc.d
	rm /usr/sbin/policy-rc.d.meshfabric
	[ "${failed:-}" != yes ] || { echo "install: apt-get failed; its own words are above" >&2; exit 1; }
fi

# The mirror that this machine uses, from either form of its apt sources.
mirror() {
	sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
		/etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		grep '/debian/*$' | head -1
}

# unpack SUITE PACKAGE FILE: FILE of PACKAGE lands in build/deb.
unpack() {
	[ -x "build/deb/$3" ] && return
	echo "install: $2 from $1 into build/deb"
	work="$(mktemp -d)"
	mkdir -p "$work/lists/partial" build/deb
	echo "deb $(mirror) $1 main" >"$work/sources.list"
	options="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State::Lists=$work/lists -o APT::Sandbox::User=root"
	apt-get $options -qq update
	(cd "$work" && apt-get $options -qq download "$2/$1")
	dpkg -x "$work"/"$2"_*.deb build/deb
	rm -rf "$work"
}
unpack bookworm-backports wireguard-go usr/bin/wireguard-go
unpack trixie etcd-server usr/bin/etcd
