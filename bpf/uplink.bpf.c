// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from the wire. Nothing is forwarded in clear within the fabric; two things
 * must not pass: fabric addresses, in either direction and whoever sent them, and
 * tunnels' packets on an uplink that is not theirs. What workloads speak with the
 * world passes: under the node's address (answers are taken in here), or under an
 * exposed one. What one node sends another through this one goes on (relay.h).
 * Tunnels' packets leave when and as their class wants (qos.h).
 * All else is none of our business and goes on to others' programs.
 * Every encrypted packet comes by, so only the addresses and one port are looked at.
 *
 * Where a segment is trusted and packets go in clear, nodes are told by addresses.
 * So the port of those packets is the fabric's alone: from an uplink to plain.bpf.c
 * they have our mark, and nobody else's packets leave for it, under this node's
 * address, whatever process or container sent them.
 */
#include "answer.h"
#include "qos.h"
#include "relay.h"

enum slots { PORTS_OF_A_SLOT = 8, WG_PORTS = GENERATIONS * MAX_SLOTS * PORTS_OF_A_SLOT };
enum vxlan { BITS_AFTER_VNI = 8 };

static __always_inline bool is_fabric(const struct addr *a)
{
	__u32 only = 0;
	struct fabric *f = bpf_map_lookup_elem(&fabric, &only);

	for (__u32 i = 0; f && i < MAX_PREFIXES && i < f->n_prefixes; i++) {
		if (lies_in(a, &f->prefix[i]))
			return true;
	}
	return false;
}

static __always_inline bool is_clear(const struct outer *o)
{
	__u32 only = 0;
	struct fabric *f = bpf_map_lookup_elem(&fabric, &only);

	for (__u32 i = 0; f && i < MAX_PREFIXES && i < f->n_prefixes; i++) {
		if (lies_in(&o->source, &f->prefix[i]) || lies_in(&o->destination, &f->prefix[i]))
			return true;
	}
	return false;
}

/* The local slot is in the port: wg_port_base + 64 * generation + 8 * local + remote. */
static __always_inline bool is_wrong_uplink(struct __sk_buff *skb, __u32 offset)
{
	__u32 slot = offset / PORTS_OF_A_SLOT % MAX_SLOTS;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &slot);

	return !uplink || uplink->ifindex != skb->ifindex;
}

static __always_inline bool is_plain_port(__u32 port)
{
	return plain_port && port == plain_port;
}

/* In clear, for a device of the fabric's: the VNI, after flags (RFC 7348, 5), ends like the ports of the
 * other tunnels. */
static __always_inline int take_plain(struct __sk_buff *skb, const struct outer *o)
{
	__u32 at = o->transport + sizeof(struct udphdr) + sizeof(__be32);
	__be32 word;

	if (bpf_skb_load_bytes(skb, at, &word, sizeof(word)))
		return drop(skb, MALFORMED);
	__u32 vni = bpf_ntohl(word) >> BITS_AFTER_VNI, slot = vni / PORTS_OF_A_SLOT % MAX_SLOTS;
	if (!is_trusted(slot))
		return drop(skb, STRANGER);
	if (is_wrong_uplink(skb, vni))
		return drop(skb, WRONG_UPLINK);
	skb->mark = plain_mark + slot;
	return TC_ACT_UNSPEC;
}

/* Where UDP starts, also in a first fragment of IPv6 (RFC 8200, 4.5), else 0. */
static __always_inline __u32 datagram_at(struct __sk_buff *skb, const struct outer *o)
{
	struct extension fragment;

	if (o->protocol == IPPROTO_UDP)
		return o->transport;
	if (o->version == 4 || o->protocol != IPPROTO_FRAGMENT ||
	    bpf_skb_load_bytes(skb, o->transport, &fragment, sizeof(fragment)))
		return 0;
	bool is_first = !(bpf_ntohs(fragment.fragment_offset) >> OFFSET_SHIFT_6);
	return is_first && fragment.next == IPPROTO_UDP ? o->transport + sizeof(fragment) : 0;
}

/* Towards a trusted segment's port, and not by plain.bpf.c? Only who may do anything here can set a mark. */
static __always_inline bool is_forged(struct __sk_buff *skb, const struct outer *o)
{
	if (!plain_port || skb->mark - plain_mark < MAX_SLOTS)
		return false;
	__u32 at = datagram_at(skb, o);
	return at && is_plain_port(destination_port(skb, at));
}

/* Could it be for a guise, as far as can be told without its ports? */
static __always_inline bool may_answer(const struct outer *o)
{
	return is_icmp(o->protocol) || has_ports(o) || (o->version == 6 && is_extension(o->protocol));
}

/* Without a tag, and to this node's link address: not one that is only overheard. */
static __always_inline bool is_for_us(const struct __sk_buff *skb, const struct outer *o)
{
	return !skb->vlan_present && o->l3 == ETH_HLEN && skb->pkt_type == PACKET_HOST;
}

static __always_inline int take_clear(struct __sk_buff *skb, const struct outer *o)
{
	if (!is_for_us(skb, o) || is_fabric(&o->source) || !is_exposed(&o->destination))
		return drop(skb, CLEAR_INGRESS);
	return from_world_bare(skb);
}

/* What these programs sent, and to the world. */
static __always_inline bool leaves_exposed(struct __sk_buff *skb, const struct outer *o)
{
	return is_exposed(&o->source) && !is_fabric(&o->destination) && take_mark(skb);
}

/* May it have come the way that it came? */
static __always_inline bool is_sender(struct __sk_buff *skb, const struct trip *trip)
{
	return trip->from == WORLD && trip->to < FIRST_NODE;
}

static __noinline int ask(struct __sk_buff *skb, const struct packet *p)
{
	__u32 to = place_of(p, destination_end(p));
	struct end source, destination;

	if (is_martian(p) || !find_end(p, source_end(p), WORLD, &source) || source.place != WORLD)
		return -SPOOFED_SOURCE;
	if (!find_end(p, destination_end(p), to, &destination) || !destination.place ||
	    destination.place >= FIRST_NODE)
		return -NOT_OURS;
	int reason = admit_by_policy(skb, p, &source, &destination);
	return reason ? -reason : (int)destination.place;
}

static __always_inline int leave_uplink(struct __sk_buff *skb)
{
	struct outer o;

	if (!read_outer(skb, &o))
		return TC_ACT_UNSPEC;
	if (is_clear(&o))
		return leaves_exposed(skb, &o) ? TC_ACT_UNSPEC : drop(skb, CLEAR_EGRESS);
	if (is_forged(skb, &o))
		return drop(skb, NOT_FROM_FABRIC);
	__u32 slot = slot_of(skb->mark);
	return slot == NO_SLOT ? TC_ACT_UNSPEC : leave_by_class(skb, o.l3, o.version, slot);
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	return leave_uplink(skb);
}

static __always_inline int enter_uplink(struct __sk_buff *skb)
{
	struct outer o;

	if (!read_outer(skb, &o))
		return TC_ACT_UNSPEC;
	if (is_clear(&o))
		return take_clear(skb, &o);
	if (has_ports(&o) && o.transport) {
		__u32 port = destination_port(skb, o.transport);
		if (port - wg_port_base < WG_PORTS && o.protocol == IPPROTO_UDP)
			return is_wrong_uplink(skb, port - wg_port_base) ? drop(skb, WRONG_UPLINK)
									 : TC_ACT_UNSPEC;
		if (is_plain_port(port) && o.protocol == IPPROTO_UDP)
			return is_for_us(skb, &o) ? take_plain(skb, &o) : TC_ACT_UNSPEC;
		if (is_relay_port(port) && o.protocol == IPPROTO_UDP)
			return is_for_us(skb, &o) ? relay(skb, port - relay_port_base) : TC_ACT_UNSPEC;
		if (port - world_port_base >= world_ports)
			return TC_ACT_UNSPEC;
	} else if (!world_ports || !may_answer(&o)) {
		return TC_ACT_UNSPEC;
	}
	return is_for_us(skb, &o) ? from_world(skb) : TC_ACT_UNSPEC;
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	return enter_uplink(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
