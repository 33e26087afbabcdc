#!/bin/sh
# Unpacks the routers that bench/reroute measures beside meshfabric into build/peers, as root: BIRD, FRR and babeld
# of Debian 12, with the libraries that this machine lacks. Nothing is installed on the machine, no service starts.
# Repeating it changes nothing.
set -eu
cd "$(dirname "$0")/../.."
me=peers
. deploy/dev/debian.sh

routers="bird2 frr babeld"
place=build/peers
[ -e "$place" ] && exit
echo "peers: $routers from bookworm into $place"
rm -rf "$place.part"
mkdir -p "$place.part"
enter_suite bookworm
# What apt would have to install with them here, in its own words: "Inst NAME (VERSION ...".
libraries="$(apt-get $aside -qq --simulate --no-install-recommends install $routers | sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p')"
unpack_here "$place.part" $routers $libraries
leave_suite
mv "$place.part" "$place"
