"""The nodes of a lab: a namespace of every kind for each, as a machine of its own would have.

Owns what a node has before any agent runs: its init process, its own /proc,
/sys, bpffs and /run, its host name. `underlay` plugs its uplinks in,
`workloads` puts pods and guests on it, `agents` runs the agent.
"""

from meshfabric.lab.process import run, spawn
from meshfabric.lab.state import Lab
from meshfabric.lab.underlay import INIT, plug

_SETUP = """
mount -n --make-rprivate /
mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
mount -n -t bpf bpf /sys/fs/bpf
# A /run of the node's own, so that sockets of two nodes (WireGuard's have fixed names) never meet;
# only the node's folder shows through. It is put together aside, then moved into place.
mount -n -t tmpfs -o mode=0755 run "$2/run"
mkdir -p "$2/run/wireguard" "$2/run/${2#/run/}"
chmod 0700 "$2/run/wireguard"
mount -n --bind "$2" "$2/run/${2#/run/}"
# The agent's socket where the command line looks for it.
ln -s "$2" "$2/run/meshfabric"
mount -n --rbind "$2/run" /run
echo "$1" >/proc/sys/kernel/hostname
# New uplinks take these; loose reverse-path filtering is what Debian's systemd sets.
echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra
ip link set lo up
"""


def raise_node(lab: Lab, node: str) -> None:
    """Start a node's init, give it a machine's surroundings and plug its uplinks in."""
    folder = lab.node_folder(node)
    for part in (folder, folder / "state", folder / "run"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = spawn(
        INIT,
        lab.log("node", node),
        into=lab.init,
        join=("pid", "mnt", "net"),
        new=("pid", "mnt", "net", "uts"),
    )
    lab.remember("node", node, process)
    run(process, ["sh", "-euc", _SETUP, "setup", node, str(folder)])
    plug(lab, node)
