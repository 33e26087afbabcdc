/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The structs that the datapath shares with user space: map keys and values,
 * nothing else. `meshfabric/model/tables.py` packs the same bytes; a test holds
 * the two against each other through BTF.
 *
 * A *place* says where an address lives: 0 nowhere, 1 .. FIRST_NODE-1 a workload
 * of this node, FIRST_NODE .. WORLD-1 another node, WORLD outside of the fabric.
 * Numbers are local to a node and pinned over restarts.
 *
 *      address --addresses--> identity, place --+-- workload: workloads[place]
 *                                               +-- node:     nodes[place - FIRST_NODE]
 *                                               |               |
 *                             generations[place]+               +--> paths[node * MAX_PATHS + i]
 *                                                               +--> plain_ends[device, place]
 */
#ifndef MESHFABRIC_TYPES_H
#define MESHFABRIC_TYPES_H

#include <linux/types.h>

enum sizes {
	FIRST_NODE = 4096, /* places below are workloads of this node */
	PLACES = 8192,
	WORLD = PLACES - 1, /* the place of all that is not of the fabric */
	MAX_NODES = WORLD - FIRST_NODE,
	MAX_PATHS = 8, /* tunnels to one node */
	SHARES = 64, /* a power of two */
	WATCHED_FLOWS = 16384, /* a power of two */
	MAX_PREFIXES = 8, /* fabric prefixes, both families together */
	MAX_EXPOSED = 8, /* prefixes whose addresses the world may see */
	MAX_SLOTS = 8, /* uplinks of a node */
	CLASSES = 16, /* of traffic: four bits cross the encryption (class.h) */
	PRIORITIES = 8,
	GENERATIONS = 2, /* of the keys of a node's tunnels */
	RELAYED_NODES = 1024, /* whose packets a node hands on at most */
	PORTS_OF_ONE = GENERATIONS * MAX_SLOTS, /* of them, in a row, at the relay */
	RELAY_PORTS = RELAYED_NODES * PORTS_OF_ONE,
	RELAYED_ENDS = RELAY_PORTS * MAX_SLOTS, /* of tunnels: one for each slot at the other end */
	RECENT_FLOWS = 262144, /* a power of two */
	NODES_PER_WORD = 64,
	ACTIVE_WORDS = (MAX_NODES + NODES_PER_WORD - 1) / NODES_PER_WORD,
	ACTIVE_BITS = ACTIVE_WORDS * NODES_PER_WORD, /* the last of them are no nodes */
};

/* Probes between the hosts of two nodes: STAMP, RFC 8762. */
enum probe_port {
	STAMP_PORT = 862, /* the reflector's (RFC 8762, 4.1) */
	PROBE_PORT = 50862, /* the sender's */
};

/* IPv4 is written as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2): one key shape for both families. */
struct addr {
	union {
		__u8 byte[16];
		__be32 word[4];
		__u64 half[2];
	};
};

struct address_key {
	__u32 prefixlen; /* in bits of the 128 */
	struct addr addr;
} __attribute__((packed, aligned(4))); /* a trie's data follow its length at once */

struct address_value {
	__u32 identity;
	__u32 place;
};

enum delivery {
	DELIVER_PEER = 1, /* a pod: into the far end of its pair, in its own namespace */
	DELIVER_EGRESS = 2, /* a VM's tap, or the host: out of the device */
};

struct workload {
	__u32 ifindex;
	__u32 identity;
	__u16 mtu; /* of its device, without link header */
	__u8 delivery;
	__u8 class; /* of what it sends and none of its rules is about */
	__u8 mac[6];
	__u8 class_rules; /* a sum of enum class_rule */
	__u8 pad[5];
};

/* Those that are always there. */
enum class_number { DEFAULT_CLASS = 0, CONTROL_CLASS = 1 };

/* How the class of a workload's packets is found, beside its own. */
enum class_rule {
	BY_PORT = 1, /* it has rules about conversations */
	BY_DSCP = 2, /* and about what the packet itself says */
	TELLS_DEFAULT = 4, /* the uplinks treat the default class otherwise than what has none */
};

enum any_dscp {
	ANY_DSCP = 64
}; /* in place of one: what is said of a conversation whatever its packets say */

/* What class a workload's packets are of. The longest prefix has the whole answer: the compiler sees to that. */
struct class_rule_key {
	__u32 prefixlen; /* 40: any protocol, 48: any port, up to 64: port prefix */
	__u32 place; /* of the sender */
	__u8 dscp;
	__u8 protocol;
	__be16 port; /* the server's */
};

/* What an uplink needs to know of a class. Rates as the time that a byte takes, in ps; 0: none is set. */
struct traffic_class {
	__u32 guaranteed;
	__u32 most;
	__u8 priority; /* the higher goes first */
	__u8 dscp; /* of the encrypted packet; 0: as it is */
	__u8 known; /* 0: no class has this number */
	__u8 pad;
};

/* One for each slot and class. */
struct class_counter {
	__u64 packets;
	__u64 bytes; /* with link header */
	__u64 marked; /* ECN: told that there is congestion */
	__u64 dropped; /* of those that did not go, and are not in `packets` */
	__u64 delay_ns; /* the sum of how long each was held back */
};

struct node {
	__u32 order; /* positions, four bits each: the lowest are the preferred one's, and so on; 0: no path */
	__u16 mtu[MAX_PATHS]; /* the largest packet that its workloads take over each, 0: unchecked */
	__u32 ifindex[MAX_PATHS]; /* the tunnels' devices towards the node, 0: a free position */
	__u32 shared; /* a bit for each position that flows are shared among; 0: they are not */
	__u8 share[SHARES]; /* positions: a flow takes that which its hash leads to */
};

enum order_bits { BITS_OF_A_RANK = 4 };

/* The ends of a tunnel without encryption, which the kernel does not know: its device is there for all
 * nodes with an uplink in that slot. */
struct plain_key {
	__u32 ifindex; /* of the device */
	__u32 place; /* of the node */
};

struct plain_end {
	struct addr remote; /* the node's uplink: what comes from anywhere else is not the node's */
	struct addr local; /* our own, of the same family */
	__u32 vni; /* by which the node tells its devices apart */
	__u32 mark; /* leads to the routing table of our uplink; and what came in by that one has it */
};

/* One end of a tunnel between two others, that this node hands packets on for. */
struct relay_end {
	__u32 number; /* of the node: its place - FIRST_NODE */
	__u8 local; /* slot of the uplink at this end, */
	__u8 remote; /* and at the other */
	__u8 generation; /* of the keys */
	__u8 pad;
};

struct relay_source_key {
	struct addr addr;
	__be16 port;
	__u8 pad[6];
};

/* Whose a socket is, and where its packets come in. */
struct relay_source {
	struct relay_end end;
	__u32 ifindex; /* the uplink, */
	__u32 pad;
	struct addr own; /* and our address there */
};

/* How to reach an end. */
struct relay_target {
	struct addr addr; /* the node's socket */
	struct addr source; /* our own address towards it, of the same family */
	__u32 ifindex;
	__u32 mark; /* leads to the routing table of that uplink */
	__be16 port;
	__u8 pad[6];
};

/* Why a path that answers is not as good as another: the higher the sum, the worse. */
enum fault {
	SLOW = 1, /* its round trips take too long */
	LOSSY = 2, /* too many of its probes get lost */
	HELD = 4, /* it was left a moment ago, for whatever reason */
};

/* Beside the sums of faults of a path that works; the lowest is taken. */
enum grade { SOUND = 0, SILENT = 8, NOWHERE = 9 };

/* Written by the datapath. One for each tunnel of each node, at its position in node.ifindex. What a
 * packet's choice needs comes first, in one cache line. */
struct path {
	__u64 unanswered_ns; /* send time of the oldest probe without an answer, 0: none */
	__u64 traffic_ns; /* at a node's first position: when there was last something for the node; coarse clock */
	__u64 sent_ns;
	__u64 sent; /* also the sequence number of the next probe */
	__u64 heard;
	__u32 leniency; /* how many more probes than usual may miss in a row, of a path that loses many */
	__u32 rtt_peak_us; /* decaying: patience grows with queueing */
	__u32 streak; /* answers since the path was last given up */
	__u32 faults; /* enum fault */
	__u32 ifindex; /* the device that this state is of; another one starts anew */
	__u32 answered; /* sequence number after that of the last probe that was answered */
	__u64 heard_ns;
	__u64 transit_out_ns; /* of the last probe, by two clocks that nobody compares: only changes tell */
	__u64 transit_back_ns;
	__u32 jitter_out_ns; /* mean change of the transit times (RFC 3550, 6.4.1) */
	__u32 jitter_back_ns;
	__u32 lost_out; /* probes that the far node did not see */
	__u32 lost_back; /* answers that we did not */
	__u32 heard_question; /* sequence numbers of the last answer that came in order */
	__u32 heard_answer;
	__u32 reflected; /* the far node's probes that we answered: our next sequence number */
	__u32 caution; /* answers for which the peak does not decay, since we gave the path up too soon */
	__u32 padded; /* sequence number of the last probe with padding that came back */
	__u32 flaps; /* times it was given up */
	__u64 missing; /* of the last 64 probes up to the last that was answered, which were not: bit 0 is the newest */
	__u64 late; /* of the last 64 answers, which took too long */
	__u64 held_until_ns; /* 0: it was never left */
	__u64 hold_ns; /* how long it was held the last time */
	__u32 falls; /* times that it got worse: given up, lossy or slow */
	__u32 rtt_us; /* last */
	__u64 pad[3];
};

_Static_assert(sizeof(struct path) == 192, "three cache lines");
_Static_assert(__builtin_offsetof(struct path, heard_ns) == 64, "what a choice needs is in the first");

/* A path got better or worse, or is silent. */
struct turn {
	__u64 at_ns; /* from when on packets are to choose otherwise */
	__u64 heard_ns; /* the last answer */
	__u32 place; /* the node */
	__u32 ifindex;
	__u32 grade; /* as it is now: a sum of enum fault, or one of enum grade */
	__u32 pad;
};

/* How a TCP connection fares on the path that is its share. [0] is what we send, [1] what we hear; times in
 * units of a millisecond or so. */
struct watched {
	__u32 check; /* of the flow */
	__u32 seen; /* when there was last a packet of it */
	__u32 place; /* the node at its other end */
	__u32 end[2]; /* the sequence number after the newest byte */
	__u32 repeated[2]; /* when last what had been there before came again */
	__u32 window; /* when the present look at its acknowledgements began */
	__u32 moved; /* when it was last moved */
	__u8 repeats[2]; /* since something new came */
	__u8 known; /* a bit for each of `end` */
	__u8 heard; /* acknowledgements in the window */
	__u8 echoes; /* those of them that tell of congestion */
	__u8 congested; /* windows in a row where that was half of them */
	__u8 position; /* 1 more than that of the path it was moved to; 0: it is where its hash leads */
	__u8 avoided; /* a bit for each position where it suffered */
};

/* What the probes to a node are made from. The rest of them is the same for all. */
struct probe_ends {
	struct addr source; /* our host's address */
	struct addr destination; /* the node's; none: it is not probed from here */
};

/* The pair of devices that the token goes round in: it leaves by one, behind a queue that holds it back for
 * one interval, and comes in by the other. */
struct loop {
	__u32 out_ifindex;
	__u32 in_ifindex; /* 0: there is none, somebody else sends the probes */
};

/* The token that paces the probes, written by the datapath only. */
struct token {
	__u64 ticked_ns; /* when it last came round, 0: it ended */
	__u64 started_ns; /* when somebody last began one */
	__u64 swept_ns; /* when the last turn to all idle nodes began */
	__u64 ticks;
	__u64 starts;
	__u64 probes;
	__u32 generation; /* the mark of the one token that counts */
	__u32 early; /* times in a row that it came too soon */
	__u32 next_active; /* node to go on with, counted on beyond ACTIVE_BITS within a tick */
	__u32 last_active; /* where this tick's turn to all active nodes would end */
	__u32 next_idle; /* the same; MAX_NODES: the turn is over */
	__u32 found_active; /* nodes in this tick */
	__s32 left; /* probes that this tick may still send */
	__u32 strays; /* tokens of another generation, or ever too soon, that were dropped */
};

/* What may be said, by whom, to whom. The longest prefix wins for the port; of the entries for the
 * exact peer and for anyone (ANY_PEER or ANY_WORLD, by where the peer is) the higher precedence wins,
 * and on a tie the denial. Under AUDIT stands what would be said if the policies in audit were in force. */
enum direction { EGRESS = 0, INGRESS = 1 };
enum direction_flag { AUDIT = 2 };
enum peer { ANY_PEER = 0, ANY_WORLD = 1 }; /* anyone in the fabric, anyone outside */
enum verdict { DENY = 0, ALLOW = 1 };

struct policy_key {
	__u32 prefixlen; /* 72: any protocol, 80: any port, up to 96: port prefix */
	__u32 subject; /* identity of the local workload */
	__u32 peer; /* identity of the other end */
	__u8 direction;
	__u8 protocol; /* IPPROTO_*; ICMP and ICMPv6 keep the type in the port */
	__be16 port;
};

struct policy_value {
	__u32 precedence;
	__u8 verdict;
	__u8 audited; /* the subject has entries under AUDIT for this direction too */
	__u8 pad[2];
};

/* The first packet of a conversation that policies in audit would have stopped. [0] is the end that spoke first. */
struct audit {
	struct addr addr[2];
	__u32 identity[2];
	__be16 port; /* as in policy_key */
	__u8 protocol;
	__u8 direction; /* whose side would have denied */
	__u32 pad;
};

/* One for each flow and node. The key has the lower address (then port) first, so that both
 * directions find the same entry; `swapped` tells which of the two spoke first. */
struct flow_key {
	struct addr addr[2];
	__be16 port[2]; /* ICMP echo: the identifier at the asking end, the request's type at the other */
	__u8 protocol;
	__u8 pad[3];
};

_Static_assert(sizeof(struct flow_key) == 40, "hashed whole: no hole may hold a stray byte");

struct flow {
	__u64 seen_ns; /* coarse clock */
	/* [0] is the end that spoke first */
	__u32 place[2];
	__u32 generation[2]; /* of the places when the verdict was made */
	__u32 identity[2];
	__u8 swapped;
	__u8 replied; /* both spoke; TCP: and the first one acknowledged what it heard */
	__u8 closing; /* the ends that say no more: 1 << end; both after a RST */
	__u8 service_class; /* of what each local end sends, four bits each, [0]'s the lower ones */
	__u8 half_open; /* TCP: answered, and that is not acknowledged yet */
	__u8 pad;
	__u16 payer; /* the place whose share of established flows it is counted to */
	__be16 nat_port; /* with nat_addr what the world sees in place of the workload's end, 0: nothing does yet */
	__u8 pad2[6];
	struct addr nat_addr;
};

/* A translation, the other way round: found by the flow's key as the world has it. */
struct nat {
	struct flow_key flow; /* as the workload has it */
	__u8 inside; /* which of its ends is the workload's */
	__u8 pad[3];
	__u32 taken; /* over, by somebody who found the flow dead */
};

/* What a packet of an answered flow needs, in one cache line. `check` ties it together: what two CPUs
 * wrote at once passes for nothing. */
struct recent {
	struct flow_key key;
	__u32 generation[2];
	__u16 place[2];
	__u16 tick; /* of the clock when the flow itself was looked at */
	__u8 swapped;
	__u8 service_class; /* the flow's */
	__u64 check;
};

_Static_assert(sizeof(struct recent) == 64, "one cache line");

/* A pass over all established flows, for room. */
struct sweep {
	__u64 begun_ns; /* coarse clock; 0: there is more to be found */
	__u32 wanted; /* still to be taken out */
	__u32 pad;
};

struct prefix {
	struct addr net;
	struct addr mask;
};

/* What the whole fabric is. */
struct fabric {
	__u32 n_prefixes;
	__u32 self; /* place of this node's host workload */
	struct prefix prefix[MAX_PREFIXES];
	__u32 n_exposed;
	__u32 pad;
	struct prefix
		exposed[MAX_EXPOSED]; /* their addresses go to the world, and come from it, as they are */
};

struct uplink {
	__u32 ifindex; /* 0: no such slot */
	__u32 ps_per_byte; /* at its capacity; 0: nothing is scheduled */
	__u32 lead; /* the first slot of the same device, whose clocks it goes by */
	__u32 pad;
	struct addr address[2]; /* IPv4 and IPv6; all zero: none */
};

struct fragment_key {
	struct addr source;
	struct addr destination;
	__u32 id; /* in network order, IPv4's in the first two bytes */
	__u8 protocol; /* 0 with IPv6, whose identifiers need none (RFC 8200, 4.5) */
	__u8 pad[3];
};

struct fragment {
	__be16 port[2]; /* [0] is the source's */
	__u8 protocol;
	__u8 role; /* enum role */
	__u8 pad[2];
};

/* What may still be said of dropped packets to one workload. */
struct budget {
	__s64 spent_ns; /* until then */
};

/* The start of a packet that an ICMP error is about: no more than keeps the error within 576 bytes
 * (RFC 1812, 4.3.2.3) or 1280 (RFC 4443, 2.4 (c)). */
enum quoted { QUOTED_4 = 576 - 20 - 8, QUOTED_6 = 1280 - 40 - 8 };

struct quote {
	__u8 byte[QUOTED_6 + 4]; /* a word to spare: it is summed up in words */
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

#endif
