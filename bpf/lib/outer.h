/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The headers of a packet on the wire, as far as an uplink looks at them.
 */
#ifndef MESHFABRIC_OUTER_H
#define MESHFABRIC_OUTER_H

#include "parse.h"

/* What an uplink looks at; `l3` 0: no IP. */
struct outer {
	struct addr source;
	struct addr destination;
	__u32 l3;
	__u32 version;
	__u32 transport; /* where that starts in a whole packet or first fragment, else 0 */
	__u8 protocol; /* the one named in the IP header */
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
	o->protocol = ip->protocol;
	o->transport = ip->frag_off & bpf_htons(OFFSET_MASK) ? 0 : l3 + ip->ihl * 4;
	return true;
}

static __always_inline bool read6(struct __sk_buff *skb, __u32 l3, struct outer *o)
{
	const struct ipv6hdr *ip = start_of(skb) + l3;
	if ((void *)(ip + 1) > end_of(skb))
		return false;
	__builtin_memcpy(&o->source, &ip->saddr, sizeof(o->source));
	__builtin_memcpy(&o->destination, &ip->daddr, sizeof(o->destination));
	o->protocol = ip->nexthdr;
	o->transport = l3 + sizeof(*ip);
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

static __always_inline bool has_ports(const struct outer *o)
{
	return o->protocol == IPPROTO_UDP || o->protocol == IPPROTO_TCP;
}

/* In place where it is, which is nearly always. */
static __always_inline __u16 destination_port(struct __sk_buff *skb, __u32 at)
{
	const struct udphdr *in_place = start_of(skb) + at;
	struct udphdr copied;

	if ((void *)(in_place + 1) <= end_of(skb))
		return bpf_ntohs(in_place->dest);
	return bpf_skb_load_bytes(skb, at, &copied, sizeof(copied)) ? 0 : bpf_ntohs(copied.dest);
}

#endif
