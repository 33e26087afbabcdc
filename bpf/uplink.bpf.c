// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from the wire. Nothing is forwarded here; two things must not pass:
 * fabric addresses in clear, in either direction and whoever sent them, and
 * WireGuard packets on an uplink that is not theirs. All else is none of our
 * business and goes on to others' programs. Every encrypted packet comes by, so
 * only the addresses and one port are looked at.
 */
#include "parse.h"
#include "verdict.h"

enum slots { PORTS_OF_A_SLOT = 8, WG_PORTS = GENERATIONS * MAX_SLOTS * PORTS_OF_A_SLOT };

/* What an uplink looks at; `l3` 0: no IP. */
struct outer {
	struct addr source;
	struct addr destination;
	__u32 l3;
	__u32 version;
};

struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

enum outer_size { OUTER_HEADERS = ETH_HLEN + sizeof(struct vlan_tag) + sizeof(struct ipv6hdr) };

/* All that is looked at, in place, as far as the frame is that long. */
static __always_inline void reach_headers(struct __sk_buff *skb)
{
	if (start_of(skb) + OUTER_HEADERS > end_of(skb))
		bpf_skb_pull_data(skb, skb->len < OUTER_HEADERS ? skb->len : OUTER_HEADERS);
}

static __always_inline bool is_tag(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

static __always_inline bool read4(struct __sk_buff *skb, __u32 l3, struct outer *o)
{
	const struct iphdr *ip = start_of(skb) + l3;
	if ((void *)(ip + 1) > end_of(skb))
		return false;
	o->source.half[0] = 0;
	o->source.half[1] = mapped_half(ip->saddr);
	o->destination.half[0] = 0;
	o->destination.half[1] = mapped_half(ip->daddr);
	return true;
}

static __always_inline bool read6(struct __sk_buff *skb, __u32 l3, struct outer *o)
{
	const struct ipv6hdr *ip = start_of(skb) + l3;
	if ((void *)(ip + 1) > end_of(skb))
		return false;
	__builtin_memcpy(&o->source, &ip->saddr, sizeof(o->source));
	__builtin_memcpy(&o->destination, &ip->daddr, sizeof(o->destination));
	return true;
}

static __always_inline bool read_outer(struct __sk_buff *skb, struct outer *o)
{
	reach_headers(skb);
	const struct ethhdr *eth = start_of(skb);
	const struct vlan_tag *tag = (void *)(eth + 1);
	if ((void *)(tag + 1) > end_of(skb))
		return false;
	__be16 protocol = ether_type(eth);
	o->l3 = ETH_HLEN;
	if (is_tag(protocol)) {
		protocol = tag->protocol;
		o->l3 += sizeof(*tag);
	}
	o->version = protocol == bpf_htons(ETH_P_IP) ? 4 : 6;
	if (protocol == bpf_htons(ETH_P_IP))
		return read4(skb, o->l3, o);
	return protocol == bpf_htons(ETH_P_IPV6) && read6(skb, o->l3, o);
}

static __always_inline bool lies_in(const struct addr *a, const struct prefix *prefix)
{
	return (a->half[1] & prefix->mask.half[1]) == prefix->net.half[1] &&
	       (a->half[0] & prefix->mask.half[0]) == prefix->net.half[0];
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

/* Where the UDP header of a whole packet or first fragment starts, or 0. */
static __always_inline __u32 udp_at(struct __sk_buff *skb, const struct outer *o)
{
	const struct iphdr *v4 = start_of(skb) + o->l3;
	const struct ipv6hdr *v6 = (void *)v4;

	if (o->version == 6) {
		if ((void *)(v6 + 1) > end_of(skb) || v6->nexthdr != IPPROTO_UDP)
			return 0;
		return o->l3 + sizeof(*v6);
	}
	if ((void *)(v4 + 1) > end_of(skb) || v4->protocol != IPPROTO_UDP ||
	    v4->frag_off & bpf_htons(OFFSET_MASK))
		return 0;
	return o->l3 + v4->ihl * 4;
}

/* In place where it is, which is nearly always. */
static __always_inline __u16 udp_destination(struct __sk_buff *skb, __u32 at)
{
	const struct udphdr *in_place = start_of(skb) + at;
	struct udphdr copied;

	if ((void *)(in_place + 1) <= end_of(skb))
		return bpf_ntohs(in_place->dest);
	return bpf_skb_load_bytes(skb, at, &copied, sizeof(copied)) ? 0 : bpf_ntohs(copied.dest);
}

/* The local slot is in the port: wg_port_base + 64 * generation + 8 * local + remote. */
static __always_inline bool is_wrong_uplink(struct __sk_buff *skb, const struct outer *o)
{
	__u32 at = udp_at(skb, o);

	if (!at)
		return false;
	__u32 offset = udp_destination(skb, at) - wg_port_base;
	if (offset >= WG_PORTS)
		return false;
	__u32 slot = offset / PORTS_OF_A_SLOT % MAX_SLOTS;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &slot);
	return !uplink || uplink->ifindex != skb->ifindex;
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	struct outer o;

	if (!read_outer(skb, &o))
		return TC_ACT_UNSPEC;
	return is_clear(&o) ? drop(skb, CLEAR_EGRESS) : TC_ACT_UNSPEC;
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct outer o;

	if (!read_outer(skb, &o))
		return TC_ACT_UNSPEC;
	if (is_clear(&o))
		return drop(skb, CLEAR_INGRESS);
	return is_wrong_uplink(skb, &o) ? drop(skb, WRONG_UPLINK) : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
