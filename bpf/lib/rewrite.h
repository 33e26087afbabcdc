/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * One end of a packet becomes another: address, port, and every checksum that
 * covers them, by what has changed (RFC 1624). So a checksum that was wrong stays
 * wrong, one that a device is still to complete stays to be completed, and
 * what was cut into fragments need not be whole.
 *
 *      move_end        a packet's own headers
 *      move_quoted     the headers of the packet that an ICMP error quotes
 */
#ifndef MESHFABRIC_REWRITE_H
#define MESHFABRIC_REWRITE_H

#include "conntrack.h"
#include "gateway.h"

enum header_field {
	CHECK_AT_4 = 10, /* of the IP header */
	SOURCE_AT_4 = 12,
	SOURCE_AT_6 = 8,
	UDP_CHECK_AT = 6,
	TCP_CHECKSUM_AT = 16,
	ICMP_CHECK_AT = 2,
	ICMP_ID_AT = 4,
	CHECK_BYTES = 2,
};

/* Where the address that moves is. */
static __always_inline __u32 address_at(const struct move *move, __u32 l3, __u8 version)
{
	if (version == 4)
		return l3 + SOURCE_AT_4 + (move->destination ? sizeof(__be32) : 0);
	return l3 + SOURCE_AT_6 + (move->destination ? sizeof(struct addr) : 0);
}

static __always_inline __u32 port_at(const struct move *move, __u32 transport, __u8 protocol)
{
	if (is_icmp(protocol))
		return transport + ICMP_ID_AT;
	return transport + (move->destination ? sizeof(__be16) : 0);
}

/* Where its checksum is, from the start of a transport header. */
static __always_inline __u32 check_at(__u8 protocol)
{
	if (is_icmp(protocol))
		return ICMP_CHECK_AT;
	return protocol == IPPROTO_TCP ? TCP_CHECKSUM_AT : UDP_CHECK_AT;
}

/* ICMP for IPv4 sums up no addresses. */
static __always_inline bool sums_addresses(__u8 protocol)
{
	return protocol != IPPROTO_ICMP;
}

static __always_inline __s64 difference(const struct move *move, __u8 version)
{
	if (version == 4)
		return bpf_csum_diff((void *)&move->from.word[3], sizeof(__be32), (void *)&move->to.word[3],
				     sizeof(__be32), 0);
	return bpf_csum_diff((void *)&move->from, sizeof(move->from), (void *)&move->to, sizeof(move->to), 0);
}

static __always_inline bool store_address(struct __sk_buff *skb, const struct move *move, __u32 l3,
					  __u8 version)
{
	__u32 at = address_at(move, l3, version);

	return version == 4 ? !bpf_skb_store_bytes(skb, at, &move->to.word[3], sizeof(__be32), 0)
			    : !bpf_skb_store_bytes(skb, at, &move->to, sizeof(move->to), 0);
}

/* The transport's checksum, for addresses that it sums up. What the hardware summed up of the whole packet (and
 * the helper keeps right for IPv4, whose header has a checksum too) is the same afterwards with IPv6. */
static __always_inline bool sum_address(struct __sk_buff *skb, const struct move *move, __u32 at,
					__u8 version, __u64 flags)
{
	__s64 changed = difference(move, version);

	if (bpf_l4_csum_replace(skb, at, 0, changed, BPF_F_PSEUDO_HDR | flags))
		return false;
	if (version == 6)
		bpf_csum_update(skb, changed);
	return true;
}

static __always_inline bool move_transport(struct __sk_buff *skb, const struct packet *p,
					   const struct move *move)
{
	__u8 protocol = p->key.protocol;
	__u32 check = p->transport + check_at(protocol);
	__u64 flags = protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0; /* no checksum stays none */

	if (sums_addresses(protocol) && !sum_address(skb, move, check, p->version, flags))
		return false;
	if (p->role == REPORTS)
		return true;
	return !bpf_l4_csum_replace(skb, check, move->port_from, move->port_to, sizeof(__be16) | flags) &&
	       !bpf_skb_store_bytes(skb, port_at(move, p->transport, protocol), &move->port_to,
				    sizeof(__be16), 0);
}

/* The packet at `l3`; of a later fragment there is but the address. */
static __noinline bool move_end(struct __sk_buff *skb, const struct packet *p, __u32 l3,
				const struct move *move)
{
	if (p->fragment != LATER_FRAGMENT && !move_transport(skb, p, move))
		return false;
	if (p->version == 4 &&
	    bpf_l3_csum_replace(skb, l3 + CHECK_AT_4, move->from.word[3], move->to.word[3], sizeof(__be32)))
		return false;
	return store_address(skb, move, l3, p->version);
}

/* In the midst of what the checksum at `outer` sums up. */
static __always_inline bool store_summed(struct __sk_buff *skb, __u32 at, __u32 outer, __be16 old, __be16 new)
{
	return !bpf_l4_csum_replace(skb, outer, old, new, sizeof(new)) &&
	       !bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0);
}

/* A checksum in a quote, if there is one, after so much of what it sums up has changed. */
static __always_inline bool move_check(struct __sk_buff *skb, __u32 at, __u32 outer, __s64 changed)
{
	__be16 old;

	if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)) || !old)
		return true;
	__u64 sum = (__u64)(__u16)~old + (__u32)changed;
	__be16 new = checksum_of((sum & 0xffffffff) + (sum >> 32));
	return store_summed(skb, at, outer, old, new);
}

/* The quoted packet at `l3`, in an ICMP error whose checksum is at `outer` and which ends at `end`. */
static __noinline bool move_quoted(struct __sk_buff *skb, const struct packet *quoted, __u32 l3,
				   const struct move *move, __u32 outer)
{
	__u8 protocol = quoted->key.protocol;
	__s64 addresses = difference(move, quoted->version);
	__s64 all = sums_addresses(protocol) ? addresses : 0;

	all += (__u16)~move->port_from + (__u32)move->port_to;
	if (!move_check(skb, quoted->transport + check_at(protocol), outer,
			(all & 0xffffffff) + (all >> 32)) ||
	    !store_summed(skb, port_at(move, quoted->transport, protocol), outer, move->port_from,
			  move->port_to))
		return false;
	if (quoted->version == 4 && !move_check(skb, l3 + CHECK_AT_4, outer, addresses))
		return false;
	return !bpf_l4_csum_replace(skb, outer, 0, addresses, 0) &&
	       store_address(skb, move, l3, quoted->version);
}

#endif
