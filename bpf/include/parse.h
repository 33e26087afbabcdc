/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The header cursor: from bytes to one `struct packet`. Plain TCP and UDP is
 * read here, in line and in place; whatever has options, extension headers,
 * fragments or another protocol goes through parse_odd.h, which is slower and
 * knows everything.
 *
 *      parse_frame     Ethernet, then IP: pods, VMs, the host
 *      parse_datagram  IP from the first byte: WireGuard devices
 */
#ifndef MESHFABRIC_PARSE_H
#define MESHFABRIC_PARSE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"
#include "reason.h"

#define V4_MAPPED bpf_htonl(0xffff) /* word[2] of ::ffff:a.b.c.d */

enum tcp_flag { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10 };
enum tcp_layout { TCP_FLAGS_AT = 13 };
enum plain_header {
	PLAIN_4 = 0x45, /* the first byte: version 4, five words, thus no options */
	WHOLE_4 = 0xbfff, /* all of frag_off but "do not fragment": zero unless it is a fragment */
};

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* What a packet may do about flows. */
enum role {
	OPENS = 0, /* starts a flow when there is none */
	ANSWERS = 1, /* an echo reply: belongs to a flow or goes nowhere */
	REPORTS = 2, /* an ICMP error: belongs to the flow it quotes, or stands alone */
	STANDS_ALONE = 3, /* other ICMP: judged by itself every time */
};

enum fragment_state { NO_FRAGMENT = 0, FIRST_FRAGMENT = 1, LATER_FRAGMENT = 2 };

struct packet {
	struct flow_key key; /* both ends, the lower one first */
	__u32 length; /* of the IP packet, without link header or padding */
	__be32 fragment_id;
	__u16 transport; /* where its header starts, from the start of the data */
	__u8 swapped; /* the source is key.addr[1] */
	__u8 version;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 role;
	__u8 fragment;
};

/* By hand, because the compiler takes these fields for the 32-bit numbers that they are declared as,
 * and the verifier lets no pointer be copied as one. */
static __always_inline void *start_of(struct __sk_buff *skb)
{
	void *data;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(data)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	return data;
}

static __always_inline void *end_of(struct __sk_buff *skb)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(end)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return end;
}

/* The Ethernet type of a frame whose header is known to be there. */
static __always_inline __be16 ether_type(const struct ethhdr *eth)
{
	return *(const __be16 *)((const __u8 *)eth + __builtin_offsetof(struct ethhdr, h_proto));
}

static __always_inline __u64 mapped_half(__be32 address)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (__u64)address << 32 | V4_MAPPED;
#else
	return (__u64)V4_MAPPED << 32 | address;
#endif
}

static __always_inline bool is_v4(const struct addr *a)
{
	return !a->half[0] && a->word[2] == V4_MAPPED;
}

/* Ports as they stand in a TCP or UDP header, both at once. */
static __always_inline __u32 port_pair(__be16 source, __be16 destination)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (__u32)destination << 16 | source;
#else
	return (__u32)source << 16 | destination;
#endif
}

/* Wide stores: what reads the key next (the hash, the comparison) reads it in words. */
static __always_inline void set_ports(struct flow_key *key, bool swapped, __u32 ports, __u8 protocol)
{
	*(__u32 *)key->port = swapped ? ports << 16 | ports >> 16 : ports;
	*(__u32 *)&key->protocol = bpf_htonl((__u32)protocol << 24);
}

static __always_inline bool ports_swapped(__u32 ports)
{
	__u32 in_order = bpf_ntohl(ports);

	return in_order >> 16 > (in_order & 0xffff);
}

static __always_inline void set_key4(struct packet *p, __be32 source, __be32 destination, __u32 ports,
				     __u8 protocol)
{
	bool swapped =
		source == destination ? ports_swapped(ports) : bpf_ntohl(source) > bpf_ntohl(destination);

	p->key.addr[0].half[0] = 0;
	p->key.addr[0].half[1] = mapped_half(swapped ? destination : source);
	p->key.addr[1].half[0] = 0;
	p->key.addr[1].half[1] = mapped_half(swapped ? source : destination);
	set_ports(&p->key, swapped, ports, protocol);
	p->swapped = swapped;
}

static __always_inline bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static __always_inline bool is_above(const struct addr *a, const struct addr *b)
{
	if (a->half[0] != b->half[0])
		return bpf_be64_to_cpu(a->half[0]) > bpf_be64_to_cpu(b->half[0]);
	return bpf_be64_to_cpu(a->half[1]) > bpf_be64_to_cpu(b->half[1]);
}

/* The key of a packet between the two; true if it has its destination first. */
static __always_inline bool order_ends(struct flow_key *key, const struct addr *source,
				       const struct addr *destination, __u32 ports, __u8 protocol)
{
	struct addr from = *source, to = *destination;
	bool swapped = same_addr(&from, &to) ? ports_swapped(ports) : is_above(&from, &to);

	key->addr[0] = swapped ? to : from;
	key->addr[1] = swapped ? from : to;
	set_ports(key, swapped, ports, protocol);
	return swapped;
}

static __always_inline void set_key6(struct packet *p, const struct addr *source,
				     const struct addr *destination, __u32 ports, __u8 protocol)
{
	p->swapped = order_ends(&p->key, source, destination, ports, protocol);
}

static __always_inline __u32 transport_minimum(__u8 protocol)
{
	return protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
}

/* The fields that plain packets of both families set alike. */
static __always_inline void set_plain(struct packet *p, __u32 length, __u32 transport, __u8 ttl,
				      __u8 tcp_flags)
{
	p->length = length;
	p->fragment_id = 0;
	p->transport = transport;
	p->ttl = ttl;
	p->tcp_flags = tcp_flags;
	p->role = OPENS;
	p->fragment = NO_FRAGMENT;
}

/* True when the packet was plain and `p` is complete. */
static __always_inline bool parse_plain4(struct __sk_buff *skb, __u32 l3, struct packet *p)
{
	const struct iphdr *ip = start_of(skb) + l3;
	const void *end = end_of(skb);
	const __u8 *transport = (void *)(ip + 1);
	__u8 flags = 0;

	if ((void *)(transport + sizeof(struct udphdr)) > end || *(__u8 *)ip != PLAIN_4 ||
	    ip->frag_off & bpf_htons(WHOLE_4))
		return false;
	if (ip->protocol == IPPROTO_TCP) {
		if ((void *)(transport + sizeof(struct tcphdr)) > end)
			return false;
		flags = transport[TCP_FLAGS_AT];
	} else if (ip->protocol != IPPROTO_UDP) {
		return false;
	}
	__u32 length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) + transport_minimum(ip->protocol) || l3 + length > skb->len)
		return false;
	p->version = 4;
	set_key4(p, ip->saddr, ip->daddr, *(__u32 *)transport, ip->protocol);
	set_plain(p, length, l3 + sizeof(*ip), ip->ttl, flags);
	return true;
}

static __always_inline bool parse_plain6(struct __sk_buff *skb, __u32 l3, struct packet *p)
{
	const struct ipv6hdr *ip = start_of(skb) + l3;
	const void *end = end_of(skb);
	const __u8 *transport = (void *)(ip + 1);
	__u8 flags = 0;

	if ((void *)(transport + sizeof(struct udphdr)) > end || *(__u8 *)ip >> 4 != 6)
		return false;
	if (ip->nexthdr == IPPROTO_TCP) {
		if ((void *)(transport + sizeof(struct tcphdr)) > end)
			return false;
		flags = transport[TCP_FLAGS_AT];
	} else if (ip->nexthdr != IPPROTO_UDP) {
		return false;
	}
	const struct addr *source = (void *)&ip->saddr, *destination = (void *)&ip->daddr;
	__u32 payload = bpf_ntohs(ip->payload_len);
	if (payload < transport_minimum(ip->nexthdr) || l3 + sizeof(*ip) + payload > skb->len ||
	    is_v4(source) || is_v4(destination))
		return false;
	p->version = 6;
	set_key6(p, source, destination, *(__u32 *)transport, ip->nexthdr);
	set_plain(p, sizeof(*ip) + payload, l3 + sizeof(*ip), ip->hop_limit, flags);
	return true;
}

#include "parse_odd.h"

/* 0, or the enum reason why the packet cannot be read. ARP is NOT_IP here. The kernel tells the Ethernet
 * type: it read the frame's on veth and tap, and a netkit pair without link addresses need not have one. */
static __always_inline int parse_frame(struct __sk_buff *skb, struct packet *p)
{
	const struct ethhdr *eth = start_of(skb);

	if ((void *)(eth + 1) > end_of(skb)) {
		bpf_skb_pull_data(skb, sizeof(*eth));
		eth = start_of(skb);
		if ((void *)(eth + 1) > end_of(skb))
			return MALFORMED;
	}
	if (skb->vlan_present) /* a tag would leave the fabric's addresses meaningless */
		return NOT_IP;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_plain4(skb, ETH_HLEN, p) ? 0 : parse_odd(skb, ETH_HLEN, 4, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_plain6(skb, ETH_HLEN, p) ? 0 : parse_odd(skb, ETH_HLEN, 6, p);
	return NOT_IP;
}

/* The same without link header: the first four bits tell the family, as they do for WireGuard itself. */
static __always_inline int parse_datagram(struct __sk_buff *skb, struct packet *p)
{
	if (parse_plain4(skb, 0, p) || parse_plain6(skb, 0, p))
		return 0;
	return parse_odd(skb, 0, 0, p);
}

#endif
