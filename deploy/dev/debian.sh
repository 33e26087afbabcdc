# What the scripts of this folder share: packages of the machine's own release, and packages of other suites of
# the same mirror, unpacked beside the machine. Sourced, in the repository's root; says who it is by $me.

[ "$(id -u)" = 0 ] || { echo "$me: not root: run it as root, e.g. with sudo" >&2; exit 1; }

# install PACKAGE...: what is missing of these, from the machine's own release; none of their services starts.
install() {
	missing=""
	for package in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
			missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	echo "$me: $(echo $missing)"
	apt-get update -qq
	# No service of these packages is wanted on the machine itself.
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.meshfabric
	chmod +x /usr/sbin/policy-rc.d.meshfabric
	[ -e /usr/sbin/policy-rc.d ] || { ln -s policy-rc.d.meshfabric /usr/sbin/policy-rc.d; linked=yes; }
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null || failed=yes
	[ "${linked:-}" = yes ] && rm /usr/sbin/policy-rc.d
	rm /usr/sbin/policy-rc.d.meshfabric
	[ "${failed:-}" != yes ] || { echo "$me: apt-get failed; its own words are above" >&2; exit 1; }
}

# The mirror that this machine uses, from either form of its apt sources.
mirror() {
	sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
		/etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		grep '/debian/*$' | head -1
}

# enter_suite SUITE: a folder $work whose lists hold only this suite; $aside are the options that make apt use it.
enter_suite() {
	work="$(mktemp -d)"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
	echo "deb $(mirror) $1 main" >"$work/sources.list"
	aside="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root
		-o Acquire::Languages=none"
	apt-get $aside -qq update
}

# unpack_here FOLDER PACKAGE...: packages of the suite that was entered, unpacked into a folder.
unpack_here() {
	folder="$1"
	shift
	for package in "$@"; do
		(cd "$work" && apt-get $aside -qq download "$package")
		dpkg -x "$work/$package"_*.deb "$folder"
		rm "$work/$package"_*.deb
	done
}

leave_suite() {
	rm -rf "$work"
	trap - EXIT HUP INT TERM
}
