/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Why a packet went or did not go. Every verdict of the datapath is counted
 * under one of these; `meshfabric drop list` shows them under the same names.
 */
#ifndef MESHFABRIC_REASON_H
#define MESHFABRIC_REASON_H

enum reason {
	FORWARDED_TO_NODE = 0, /* into a tunnel */
	FORWARDED_TO_LOCAL = 1, /* to a workload of this node */
	PROBE_REFLECTED = 2,
	PROBE_HEARD = 3,
	NEIGHBOUR_ANSWERED = 4, /* ARP or neighbour solicitation for the gateway */
	TOO_BIG_TOLD = 5, /* ICMP to the sender of a packet that was TOO_BIG */
	EXPIRED_TOLD = 6, /* the same for TTL_EXPIRED */
	ERROR_WITHHELD = 7, /* the sender was told of enough others just before */
	FIRST_DROP = 8,
	MALFORMED = 8, /* headers shorter than they claim */
	NOT_IP = 9, /* neither IPv4, IPv6 nor ARP */
	LINK_SCOPE = 10, /* multicast, broadcast or link-local: never leaves the link */
	UNKNOWN_WORKLOAD = 11, /* a device that no workload owns */
	SPOOFED_SOURCE = 12, /* not the sender's address */
	TTL_EXPIRED = 13,
	NO_ROUTE = 14, /* nobody holds the destination */
	POLICY_EGRESS = 15, /* the sender's side denies */
	POLICY_INGRESS = 16, /* the receiver's side denies */
	NO_PATH = 17, /* the destination node has no tunnel */
	TOO_BIG = 18, /* larger than the receiver's or tunnel's MTU */
	NOT_OURS = 19, /* came out of a tunnel but is for nobody here */
	FLOWS_FULL = 20,
	CLEAR_EGRESS = 21, /* fabric address in clear, leaving by an uplink */
	CLEAR_INGRESS = 22, /* fabric address in clear, arriving on an uplink */
	WRONG_UPLINK = 23, /* tunnel of another uplink */
	NOT_FROM_FABRIC =
		24, /* towards a workload or tunnel, here or at another node, but not by these programs */
	FRAGMENT = 25, /* a later fragment whose first one was not seen */
	UNSUPPORTED = 26, /* a protocol or extension header that is not forwarded */
	AUDITED = 27, /* no drop: a policy in audit would have been one's reason */
	FORWARDED_TO_WORLD = 28, /* out of an uplink; no drop */
	NAT_FULL = 29, /* no port left for another flow to that end */
	STRANGER = 30, /* without encryption, and not from the uplink of the node whose address it bears */
	FLOW_MOVED = 31, /* no drop: a connection suffered on the path that was its share */
	RELAYED = 32, /* one node's packet to another, handed on; no drop */
	RELAY_FULL = 33, /* more of that than the node's rate */
	QUEUE_FULL = 34, /* its class would have waited too long at the uplink */
	REASONS = 35,
};

#endif
