/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A packet that becomes one probe after the other, of either family: token.h has
 * each of them copied into its tunnel.
 *
 *      link header | IPv4 20, UDP 8, test packet 44     the carrier as it is kept, an empty packet
 *                  | IPv6 40, UDP 8, test packet 44     as it is while it stands for one of these
 */
#ifndef MESHFABRIC_CARRIER_H
#define MESHFABRIC_CARRIER_H

#include "parse.h"
#include "question.h"

enum probe_fields {
	HOPS = 64, /* and one less by turns */
	TRAFFIC_CLASS = 0xc0, /* CS6: network control (RFC 4594) */
};

struct probe4 {
	struct iphdr ip;
	struct udphdr udp;
	struct stamp stamp;
} __attribute__((packed, aligned(4)));

struct probe6 {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct stamp stamp;
} __attribute__((packed, aligned(4)));

/* What goes round between two ticks: an empty packet that becomes a probe of either family without more room. */
struct blank {
	struct ethhdr eth;
	__u8 nothing[sizeof(struct probe4)];
};

enum lengths { DATAGRAM = sizeof(struct udphdr) + sizeof(struct stamp) };

/* Summed up before UDP (RFC 768; RFC 8200, 8.1). */
struct pseudo4 {
	__be32 source, destination;
	__u8 zero, protocol;
	__be16 length;
};

struct pseudo6 {
	struct addr source, destination;
	__be32 length, protocol;
};

static __always_inline __sum16 fold_sum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* What a device may see only as "no checksum" is written the other way (RFC 768). */
static __always_inline __sum16 datagram_check(void *pseudo, __u32 size, void *udp)
{
	__s64 sum = bpf_csum_diff(NULL, 0, pseudo, size, 0);
	__sum16 check = fold_sum(bpf_csum_diff(NULL, 0, udp, DATAGRAM, sum));

	return check ? check : 0xffff;
}

#define PROBE_UDP {.source = bpf_htons(PROBE_PORT), .dest = bpf_htons(STAMP_PORT), .len = bpf_htons(DATAGRAM)}

/* Who joins datagrams of one flow on their way (UDP GRO, as wireguard-go does) takes only those with the same
 * hop limit, and two probes in one packet would be one. */
static __always_inline __u8 hops_of(const struct stamp *question)
{
	return HOPS - (bpf_ntohl(question->sequence) & 1);
}

static __noinline bool write_probe4(struct __sk_buff *skb, const struct probe_ends *ends, struct path *path,
				    __u32 ifindex)
{
	struct pseudo4 pseudo = {ends->source.word[3], ends->destination.word[3], 0, IPPROTO_UDP,
				 bpf_htons(DATAGRAM)};
	struct probe4 probe = {
		.ip = {.version = 4,
		       .ihl = sizeof(struct iphdr) / 4,
		       .tos = TRAFFIC_CLASS,
		       .tot_len = bpf_htons(sizeof(struct iphdr) + DATAGRAM),
		       .protocol = IPPROTO_UDP,
		       .saddr = ends->source.word[3],
		       .daddr = ends->destination.word[3]},
		.udp = PROBE_UDP,
	};

	write_question(&probe.stamp, path, ifindex);
	probe.ip.ttl = hops_of(&probe.stamp);
	probe.ip.check = fold_sum(bpf_csum_diff(NULL, 0, (void *)&probe.ip, sizeof(probe.ip), 0));
	probe.udp.check = datagram_check(&pseudo, sizeof(pseudo), &probe.udp);
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &probe, sizeof(probe), BPF_F_INVALIDATE_HASH);
}

static __noinline bool write_probe6(struct __sk_buff *skb, const struct probe_ends *ends, struct path *path,
				    __u32 ifindex)
{
	struct pseudo6 pseudo = {ends->source, ends->destination, bpf_htonl(DATAGRAM),
				 bpf_htonl(IPPROTO_UDP)};
	struct probe6 probe = {
		.ip = {.version = 6,
		       .priority = TRAFFIC_CLASS >> 4,
		       .payload_len = bpf_htons(DATAGRAM),
		       .nexthdr = IPPROTO_UDP},
		.udp = PROBE_UDP,
	};

	__builtin_memcpy(&probe.ip.saddr, &ends->source, sizeof(ends->source));
	__builtin_memcpy(&probe.ip.daddr, &ends->destination, sizeof(ends->destination));
	write_question(&probe.stamp, path, ifindex);
	probe.ip.hop_limit = hops_of(&probe.stamp);
	probe.udp.check = datagram_check(&pseudo, sizeof(pseudo), &probe.udp);
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &probe, sizeof(probe), BPF_F_INVALIDATE_HASH);
}

/* The carrier, between the link header and what a probe says, as one of this family: it is IPv4's length of a
 * probe or IPv6's. */
static __always_inline bool become(struct __sk_buff *skb, __u16 protocol)
{
	return skb->protocol == bpf_htons(protocol) || !bpf_skb_change_proto(skb, bpf_htons(protocol), 0);
}

static __always_inline bool write_probe(struct __sk_buff *skb, const struct probe_ends *ends,
					struct path *path, __u32 ifindex)
{
	if (is_v4(&ends->destination))
		return become(skb, ETH_P_IP) && write_probe4(skb, ends, path, ifindex);
	return become(skb, ETH_P_IPV6) && write_probe6(skb, ends, path, ifindex);
}

#endif
