#!/bin/sh
# Installs what runs the tests on whole kernels, as root: vm.sh [6.1|6.12|newest]... Repeating it changes nothing.
#
# QEMU comes from the machine's own release. An older one than QEMU_LEAST gets another beside it, from that
# release's backports, in build/qemu. Kernels are Debian's, as they are, and are
# only unpacked: build/kernels/NAME holds vmlinuz, lib/modules and, last, `version`.
#   6.1     bookworm            the oldest that meshfabric supports
#   6.12    bookworm-backports
#   newest  sid                 whatever that is on the day; remove build/kernels/newest to renew it
set -eu
cd "$(dirname "$0")/../.."
me=vm
. deploy/dev/debian.sh

# Older ones emulating several CPUs now and then run code that a kernel has changed meanwhile: it dies of "int3".
QEMU_LEAST=1:8.1

install busybox-static kmod qemu-system-x86

# qemu: a newer QEMU lands in build/qemu, whole or not at all, if the machine's own is too old. It uses the
# libraries of that one.
qemu() {
	place=build/qemu
	dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" ge "$QEMU_LEAST" && return
	[ -e "$place" ] && return
	echo "vm: a newer QEMU into $place"
	rm -rf "$place.part"
	mkdir -p "$place.part"
	enter_suite "$(. /etc/os-release && echo "$VERSION_CODENAME")-backports"
	unpack_here "$place.part" qemu-system-x86 qemu-system-data seabios
	leave_suite
	mv "$place.part" "$place"
}

# kernel_packages: what the suite's linux-image-amd64 stands for. One package holds it all up to 6.12;
# later ones are split into linux-base-*, linux-binary-* and linux-modules-*.
kernel_packages() {
	apt-cache $aside depends --recurse --important linux-image-amd64 |
		sed -n 's/^ *\(Pre\)\?Depends: *\(linux-\(image\|base\|binary\|modules\)-[0-9].*\)/\2/p' | sort -u
}

# kernel NAME SUITE: Debian's kernel of a suite lands in build/kernels/NAME, whole or not at all.
kernel() {
	place="build/kernels/$1"
	[ -e "$place/version" ] && return
	echo "vm: kernel $1 from $2 into $place"
	rm -rf "$place" "$place.part"
	mkdir -p "$place.part"
	enter_suite "$2"
	unpack_here "$place.part" $(kernel_packages)
	leave_suite
	# Newer packages have all beneath /usr.
	[ -d "$place.part/lib/modules" ] || mv "$place.part/usr/lib" "$place.part/lib"
	release="$(ls "$place.part/lib/modules")"
	mv "$(find "$place.part" -name "vmlinuz*" -type f)" "$place.part/vmlinuz"
	depmod --basedir "$place.part" "$release"
	echo "$release" >"$place.part/version"
	mv "$place.part" "$place"
}

qemu
for name in "${@:-6.12}"; do
	case "$name" in
	6.1) kernel 6.1 bookworm ;;
	6.12) kernel 6.12 bookworm-backports ;;
	newest) kernel newest sid ;;
	*) echo "vm: no kernel $name: choose of 6.1, 6.12 and newest" >&2; exit 1 ;;
	esac
done
