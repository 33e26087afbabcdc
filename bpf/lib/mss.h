/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The ends of a TCP connection tell each other how large a segment they take. Who
 * says more than fits on the way is corrected, so that no data has to be lost for
 * the path's MTU to be found (RFC 4459, 3.2).
 *
 * Only a SYN says it, and a SYN never goes the short way of busy flows. What is
 * malformed is not ours to mend, and stays as it is.
 */
#ifndef MESHFABRIC_MSS_H
#define MESHFABRIC_MSS_H

#include "parse.h"
#include "path.h"

enum tcp_option {
	OPTION_END = 0,
	OPTION_NOTHING = 1,
	OPTION_MSS = 2,
	OPTION_HEAD = 2, /* type and length */
	MSS_LENGTH = 4, /* RFC 9293, 3.2 */
	MOST_OPTIONS = 40, /* bytes */
	ANY_PLACE = 0x1ff, /* more than any option leads to */
};

enum tcp_place { TCP_LENGTH_AT = 12, TCP_LENGTH_SHIFT = 4, TCP_WORD = 4, TCP_CHECK_AT = 16 };

/* What is not in an MSS: the headers without options (RFC 6691). */
enum unsegmented {
	HEADERS_4 = sizeof(struct iphdr) + sizeof(struct tcphdr),
	HEADERS_6 = sizeof(struct ipv6hdr) + sizeof(struct tcphdr),
};

/* The bytes of a TCP header, options and all; 0 if it cannot be read. */
static __always_inline __u32 tcp_length(struct __sk_buff *skb, __u32 transport)
{
	__u8 offset = 0;

	bpf_skb_load_bytes(skb, transport + TCP_LENGTH_AT, &offset, sizeof(offset));
	return (offset >> TCP_LENGTH_SHIFT) * TCP_WORD;
}

/* What fits on the flow's way to this place, as long as it is this way; 0: anything. */
static __always_inline __u32 mtu_towards(__u32 place, const struct flow_key *flow)
{
	if (place < FIRST_NODE) {
		struct workload *workload = bpf_map_lookup_elem(&workloads, &place);
		return workload ? workload->mtu : 0;
	}
	__u32 node_index = place - FIRST_NODE;
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);
	return node ? mtu_of(choose_tunnel(node, node_index, flow)) : 0;
}

/* Where among the options the MSS itself is, 0: nowhere. Behind the last option there are zeros, thus an end.
 * The verifier walks every turn of the loop: what it forgets of `at` lets it take two turns for one. */
static __always_inline __u32 find_mss(const __u8 *options)
{
	__u32 at = 0;

	for (int i = 0; i < MOST_OPTIONS; i++) {
		asm volatile("%0 &= %1" : "+r"(at) : "i"(ANY_PLACE));
		if (at > MOST_OPTIONS - MSS_LENGTH || options[at] == OPTION_END)
			return 0;
		__u8 length = options[at + 1];
		if (options[at] == OPTION_MSS)
			return length == MSS_LENGTH ? at + OPTION_HEAD : 0;
		if (options[at] != OPTION_NOTHING && length < OPTION_HEAD)
			return 0;
		at += options[at] == OPTION_NOTHING ? 1 : length;
	}
	return 0;
}

/* RFC 1624. An option may start anywhere, the checksum counts in words. */
static __always_inline bool store_mss(struct __sk_buff *skb, const struct packet *p, __u32 at, __be16 old,
				      __be16 new)
{
	bool turned = (at - p->transport) & 1;
	__be16 from = turned ? __builtin_bswap16(old) : old, to = turned ? __builtin_bswap16(new) : new;

	return !bpf_l4_csum_replace(skb, p->transport + TCP_CHECK_AT, from, to, sizeof(to)) &&
	       !bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0);
}

/* True if it had to be lowered. `l3` is where the IP packet starts. */
static __noinline bool fit_mss(struct __sk_buff *skb, const struct packet *p, __u32 l3, __u32 place)
{
	__u32 headers = p->version == 4 ? HEADERS_4 : HEADERS_6, mtu = mtu_towards(place, &p->key);
	__u32 first = p->transport + sizeof(struct tcphdr);
	__u32 length = tcp_length(skb, p->transport);
	__u8 options[MOST_OPTIONS + MSS_LENGTH] = {};
	__be16 old, new;

	if (mtu <= headers || length <= sizeof(struct tcphdr) || p->transport + length > l3 + p->length)
		return false;
	length -= sizeof(struct tcphdr);
	barrier_var(length); /* both bounds for the verifier to see, as in complaint.h */
	if (length > MOST_OPTIONS)
		return false;
	barrier_var(length);
	if (length < MSS_LENGTH || bpf_skb_load_bytes(skb, first, options, length))
		return false;
	__u32 at = find_mss(options);
	barrier_var(at);
	if (at > MOST_OPTIONS - sizeof(old))
		return false;
	barrier_var(at);
	if (!at || at + sizeof(old) > length)
		return false;
	__builtin_memcpy(&old, &options[at], sizeof(old));
	new = bpf_htons(mtu - headers);
	return bpf_ntohs(old) > mtu - headers && store_mss(skb, p, first + at, old, new);
}

static __always_inline bool tells_mss(const struct packet *p)
{
	return p->tcp_flags & TCP_SYN && p->fragment == NO_FRAGMENT;
}

#endif
