"""The datapath's verdicts in words, under the same names as in `bpf/include/reason.h`. Pure."""

from meshfabric.model.tables import Reason

MEANING = {
    Reason.FORWARDED_TO_NODE: "into a tunnel to another node",
    Reason.FORWARDED_TO_LOCAL: "to a workload of this node",
    Reason.PROBE_REFLECTED: "path probe of another node answered",
    Reason.PROBE_HEARD: "answer to a path probe taken in",
    Reason.NEIGHBOUR_ANSWERED: "ARP or neighbour solicitation for the gateway answered",
    Reason.TOO_BIG_TOLD: "ICMP to the sender of a packet that was too_big: what would fit",
    Reason.EXPIRED_TOLD: "ICMP to the sender of a packet whose ttl_expired",
    Reason.ERROR_WITHHELD: "no such ICMP: the workload was told of enough packets just before",
    Reason.MALFORMED: "headers shorter than they claim",
    Reason.NOT_IP: "neither IPv4, IPv6 nor ARP",
    Reason.LINK_SCOPE: "multicast, broadcast or link-local: never leaves the link",
    Reason.UNKNOWN_WORKLOAD: "from a device that no workload owns",
    Reason.SPOOFED_SOURCE: "the sender does not own the source address",
    Reason.TTL_EXPIRED: "time to live or hop limit used up; the sender is told",
    Reason.NO_ROUTE: "nobody holds the destination address, or no uplink leads there",
    Reason.POLICY_EGRESS: "no policy lets the sender say this",
    Reason.POLICY_INGRESS: "no policy lets the receiver hear this",
    Reason.NO_PATH: "the destination's node has no tunnel",
    Reason.TOO_BIG: "larger than the receiver's or the tunnel's MTU; the sender is told what fits",
    Reason.NOT_OURS: "came out of a tunnel but is for nobody here",
    Reason.FLOWS_FULL: "the flow could not be remembered",
    Reason.CLEAR_EGRESS: "fabric address in clear, about to leave by an uplink",
    Reason.CLEAR_INGRESS: "fabric address in clear, arrived on an uplink",
    Reason.WRONG_UPLINK: "a tunnel's packet for another uplink",
    Reason.NOT_FROM_FABRIC: "towards a workload or tunnel, here or at another node, but not by the fabric",
    Reason.FRAGMENT: "later fragment of a packet whose first one was not seen",
    Reason.UNSUPPORTED: "a protocol or extension header that is not forwarded",
    Reason.AUDITED: "went, but a policy in audit would have stopped it",
    Reason.FORWARDED_TO_WORLD: "out of an uplink to an address outside of the fabric",
    Reason.NAT_FULL: "no port of the node is left for another flow to that end of the world",
    Reason.STRANGER: "not encrypted, and not from the uplink of the node whose address it bears",
    Reason.FLOW_MOVED: "a TCP connection suffered on the path that was its share, and takes another",
}
assert MEANING.keys() == set(Reason)
