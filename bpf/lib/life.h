/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What a flow's packets make of it, and how long it lives after the last one.
 *
 *      TCP     a SYN -> half open, once answered -> established, once the first end acknowledges the answer
 *                    (RFC 9293, 3.5) -> half closed by a FIN -> over by the other one's FIN, or any RST
 *      others  established, once answered
 *
 * Lifetimes are no shorter than the RFCs ask for. settle.h keeps the flows.
 */
#ifndef MESHFABRIC_LIFE_H
#define MESHFABRIC_LIFE_H

#include "parse.h"

enum lifetime_s {
	TCP_TRANSITORY_S = 4 * 60, /* opening or closing (RFC 5382, REQ-5) */
	TCP_ESTABLISHED_S = 24 * 3600, /* at least TCP_CROWDED_S */
	TCP_CROWDED_S =
		2 * 3600 + 4 * 60, /* where others find no room: the least allowed (RFC 5382, REQ-5) */
	UDP_NEW_S = 2 * 60, /* at least (RFC 4787, REQ-5) */
	UDP_ANSWERED_S = 5 * 60, /* recommended (RFC 4787, REQ-5) */
	ICMP_S = 60, /* RFC 5508, REQ-2 */
	SEEN_STEP_S = 1, /* how far the time of the last packet may lag, to spare cache lines */
};

#define NS_PER_S 1000000000LL

enum closing { ONE_CLOSED = 1, BOTH_CLOSED = 3 }; /* ONE_CLOSED << end */

/* Indices into a flow's ends: who sent this packet, and does it go against the first one? */
static __always_inline __u32 sender_in(const struct flow *flow, const struct packet *p)
{
	return (flow->swapped ^ p->swapped) & 1;
}

/* Two-way traffic, and more of it to come. */
static __always_inline bool is_established(const struct flow *flow)
{
	return flow->replied && flow->closing != BOTH_CLOSED;
}

static __always_inline __s64 lifetime_ns(const struct flow *flow, __u8 protocol, __s64 tcp_established_s)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return NS_PER_S * (flow->replied && !flow->closing ? tcp_established_s : TCP_TRANSITORY_S);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return NS_PER_S * ICMP_S;
	default:
		return NS_PER_S * (flow->replied ? UDP_ANSWERED_S : UDP_NEW_S);
	}
}

/* A closing connection's ports are taken again by the first SYN (RFC 6056, 2.2; RFC 9293, 3.6.1). */
static __always_inline bool begins_anew(const struct flow *flow, const struct packet *p)
{
	return flow->closing && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline bool is_over(const struct flow *flow, __u8 protocol)
{
	__s64 idle_ns = bpf_ktime_get_coarse_ns() - flow->seen_ns;

	return idle_ns > lifetime_ns(flow, protocol, TCP_ESTABLISHED_S);
}

static __always_inline bool is_alive(const struct flow *flow, const struct packet *p)
{
	return !is_over(flow, p->key.protocol) && !begins_anew(flow, p);
}

/* That the first end acknowledges what it heard is the only proof that it heard anything: without it a
 * flood of SYNs would be as good as connections wherever somebody listens, or refuses. */
static __always_inline void note_turn(struct flow *flow, const struct packet *p)
{
	bool turned = sender_in(flow, p);

	if (flow->replied)
		return;
	if (p->key.protocol != IPPROTO_TCP)
		flow->replied = turned;
	else if (turned)
		flow->half_open = 1;
	else if (flow->half_open && !flow->closing &&
		 (p->tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK)
		flow->replied = 1;
}

static __always_inline void note_end(struct flow *flow, const struct packet *p)
{
	__u8 closing = flow->closing;

	if (p->tcp_flags & TCP_RST)
		closing = BOTH_CLOSED;
	else if (p->tcp_flags & TCP_FIN)
		closing |= ONE_CLOSED << sender_in(flow, p);
	if (closing != flow->closing)
		flow->closing = closing;
}

/* Note the packet in its flow, or false when that is over. Shared cache lines are written only if
 * something changed. */
static __always_inline bool keep_alive(struct flow *flow, const struct packet *p)
{
	__u64 now_ns = bpf_ktime_get_coarse_ns();
	__s64 idle_ns = now_ns - flow->seen_ns;

	if (idle_ns > NS_PER_S * SEEN_STEP_S) {
		if (idle_ns > lifetime_ns(flow, p->key.protocol, TCP_ESTABLISHED_S))
			return false;
		flow->seen_ns = now_ns;
	}
	if (begins_anew(flow, p))
		return false;
	note_turn(flow, p);
	note_end(flow, p);
	return true;
}

#endif
