/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What a workload is told of a packet that cannot go on: that it was too big and
 * what would fit (RFC 1191, RFC 8201), or that its hops were used up (RFC 792,
 * RFC 4443). The packet is dropped and counted; its bytes become the error, which
 * goes back out of the device that it came from.
 *
 *      workload --packet--> drop, TOO_BIG or TTL_EXPIRED
 *               <--ICMP from the gateway, quoting it, TOO_BIG_TOLD or EXPIRED_TOLD
 *
 * (answer.h does the same for the world, in the name of whom it spoke to.)
 *
 * Nobody is told anything about an ICMP error or a later fragment (RFC 1812,
 * 4.3.2.7; RFC 4443, 2.4 (e)); what goes to many never comes this far. All
 * of it is rare: nothing here is on the way of a packet that is forwarded.
 */
#ifndef MESHFABRIC_COMPLAINT_H
#define MESHFABRIC_COMPLAINT_H

#include "address.h"
#include "gateway.h"
#include "verdict.h"

/* Each workload has a bucket of its own: enough for a path MTU to be found by many flows at once, little
 * beside what the workload itself must send for it. */
enum complaint_rate { COMPLAINTS_PER_S = 100, COMPLAINTS_AT_ONCE = 50 };
#define COMPLAINT_INTERVAL_NS (1000000000LL / COMPLAINTS_PER_S)

enum complaint_size {
	SUMMED_AT_ONCE = 512, /* bytes; more than that bpf_csum_diff takes only since Linux 6.13 */
	FRONT_CUT = 1280, /* bytes; beyond where any transport header starts, see become_error */
};

enum complaint_field {
	INTERNETWORK_CONTROL = 0xc0, /* type of service of an error (RFC 1812, 4.3.2.5) */
	ERROR_TTL = 64,
	FRAGMENTATION_NEEDED = 4, /* a code of ICMP_DEST_UNREACH */
};

enum { NO_HOP_LEFT = 0 }; /* in place of an MTU: what the complaint is about */

/* The headers of an error; what they quote follows. */
struct error4 {
	struct iphdr ip;
	struct icmp_head icmp;
};

struct error6 {
	struct ipv6hdr ip;
	struct icmp_head icmp;
};

static __always_inline bool may_be_told(const struct packet *p)
{
	return p->fragment != LATER_FRAGMENT && (p->role == OPENS || p->role == ANSWERS);
}

/* A token bucket, kept as the time until which all tokens are spent. Two CPUs may spend one token twice. */
static __always_inline bool spend_token(__u32 place)
{
	struct budget *budget = bpf_map_lookup_elem(&complaints, &place);
	__s64 now_ns = bpf_ktime_get_ns();
	__s64 full_ns = now_ns - COMPLAINTS_AT_ONCE * COMPLAINT_INTERVAL_NS;

	if (!budget)
		return false;
	__s64 spent_ns = budget->spent_ns > full_ns ? budget->spent_ns : full_ns;
	if (spent_ns + COMPLAINT_INTERVAL_NS > now_ns)
		return false;
	budget->spent_ns = spent_ns + COMPLAINT_INTERVAL_NS;
	return true;
}

/* As much of the packet as fits, and zeros up to a whole word; its length, or 0 if it cannot be read. */
static __always_inline __u32 take_quote(struct __sk_buff *skb, const struct packet *p, struct quote *quote)
{
	__u32 most = p->version == 4 ? QUOTED_4 : QUOTED_6;
	__u32 length = p->length < most ? p->length : most;

	barrier_var(
		length); /* the verifier of Linux 6.1 must see both bounds, and no "not zero" tells it one */
	if (length > QUOTED_6)
		return 0;
	barrier_var(length);
	if (length < sizeof(struct iphdr))
		return 0;
	*(__u32 *)&quote->byte[length] = 0;
	return bpf_skb_load_bytes(skb, ETH_HLEN, quote->byte, length) ? 0 : length;
}

static __always_inline __s64 sum_quote(const struct quote *quote, __u32 length, __s64 sum)
{
#pragma unroll
	for (__u32 at = 0; at < QUOTED_6; at += SUMMED_AT_ONCE) {
		__u32 left = length > at ? (length - at + 3) & ~3 : 0;
		__u32 room = QUOTED_6 - at < SUMMED_AT_ONCE ? QUOTED_6 - at : SUMMED_AT_ONCE;
		barrier_var(left);
		if (left > room)
			left = room;
		barrier_var(left);
		if (left)
			sum = bpf_csum_diff(NULL, 0, (void *)&quote->byte[at], left, sum);
	}
	return sum;
}

/* The frame becomes the error. What it was before is forgotten on the way: that it was to be cut into segments,
 * when its tail is changed; that a checksum is still to be completed, when that one's place is cut off at the
 * front. Else a device would complete it in the midst of the quote. */
static __always_inline bool become_error(struct __sk_buff *skb, const void *head, __u32 size,
					 const struct quote *quote, __u32 length)
{
	return !bpf_skb_change_tail(skb, ETH_HLEN + size + length + FRONT_CUT, 0) &&
	       !bpf_skb_adjust_room(skb, -FRONT_CUT, BPF_ADJ_ROOM_MAC, 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN, head, size, 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + size, quote->byte, length, 0);
}

static __always_inline bool write_error4(struct __sk_buff *skb, const struct packet *p, __u32 mtu,
					 const struct addr *speaker, const struct quote *quote, __u32 length)
{
	struct addr asker = addr_of(p, source_end(p));
	struct error4 error = {
		.ip = {.version = 4,
		       .ihl = sizeof(error.ip) / 4,
		       .tos = INTERNETWORK_CONTROL,
		       .tot_len = bpf_htons(sizeof(error) + length),
		       .ttl = ERROR_TTL,
		       .protocol = IPPROTO_ICMP,
		       .saddr = speaker->word[3],
		       .daddr = asker.word[3]},
		.icmp = {.type = mtu ? ICMP_DEST_UNREACH : ICMP_TIME_EXCEEDED,
			 .code = mtu ? FRAGMENTATION_NEEDED : 0,
			 .sequence = bpf_htons(mtu)}, /* RFC 1191, 4: the MTU is in the last two bytes */
	};
	__s64 sum = bpf_csum_diff(NULL, 0, (void *)&error.icmp, sizeof(error.icmp), 0);

	error.icmp.check = checksum_of(sum_quote(quote, length, sum));
	error.ip.check = checksum_of(bpf_csum_diff(NULL, 0, (void *)&error.ip, sizeof(error.ip), 0));
	return become_error(skb, &error, sizeof(error), quote, length);
}

static __always_inline bool write_error6(struct __sk_buff *skb, const struct packet *p, __u32 mtu,
					 const struct addr *speaker, const struct quote *quote, __u32 length)
{
	struct addr asker = addr_of(p, source_end(p));
	struct error6 error = {
		.ip = {.version = 6,
		       .payload_len = bpf_htons(sizeof(error.icmp) + length),
		       .nexthdr = IPPROTO_ICMPV6,
		       .hop_limit = ERROR_TTL},
		.icmp = {.type = mtu ? ICMPV6_PKT_TOOBIG : ICMPV6_TIME_EXCEED, .sequence = bpf_htons(mtu)},
	};
	__be32 pseudo[] = {bpf_htonl(sizeof(error.icmp) + length), bpf_htonl(IPPROTO_ICMPV6)};

	__builtin_memcpy(&error.ip.saddr, speaker, sizeof(*speaker));
	__builtin_memcpy(&error.ip.daddr, &asker, sizeof(asker));
	__s64 sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (void *)&error.ip.saddr, 2 * sizeof(struct addr) + sizeof(error.icmp),
			    sum);
	error.icmp.check = checksum_of(sum_quote(quote, length, sum));
	return become_error(skb, &error, sizeof(error), quote, length);
}

static __always_inline bool write_error(struct __sk_buff *skb, const struct packet *p, __u32 mtu,
					const struct addr *speaker)
{
	__u32 only = 0;
	struct quote *quote = bpf_map_lookup_elem(&quotes, &only);
	__u32 length = quote ? take_quote(skb, p, quote) : 0;

	if (!length)
		return false;
	return p->version == 4 ? write_error4(skb, p, mtu, speaker, quote, length)
			       : write_error6(skb, p, mtu, speaker, quote, length);
}

/* The end of a workload's packet: too big for `mtu`, or its hops are used up (NO_HOP_LEFT). */
static __noinline int complain(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	__u32 ifindex = skb->ifindex;
	__u32 *place = bpf_map_lookup_elem(&devices, &ifindex);
	struct workload *sender = place ? bpf_map_lookup_elem(&workloads, place) : NULL;
	int verdict = drop(skb, mtu ? TOO_BIG : TTL_EXPIRED);

	if (!sender || !may_be_told(p))
		return verdict;
	if (!spend_token(*place)) {
		count(skb, ERROR_WITHHELD);
		return verdict;
	}
	struct addr gateway = gateway_address(p->version);
	if (!write_error(skb, p, mtu, &gateway) || !set_link_header(skb, sender->mac, p->version))
		return verdict;
	return send_marked(skb, ifindex, mtu ? TOO_BIG_TOLD : EXPIRED_TOLD);
}

#endif
