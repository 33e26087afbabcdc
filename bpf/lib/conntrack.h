/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Flows: made by the first packet that the policy allows, followed without
 * asking it again, until a generation moves or the time runs out.
 *
 *      nothing --first packet, allowed--> new_flows --first answer--> flows
 *         ^                                   |                         |
 *         +----------------- silent or denied for too long -------------+
 *
 * Lifetimes, after the last packet. They are no shorter than the RFCs ask for:
 */
#ifndef MESHFABRIC_CONNTRACK_H
#define MESHFABRIC_CONNTRACK_H

#include "policy.h"

enum lifetime_s {
	TCP_TRANSITORY_S = 4 * 60, /* no answer yet, or closing (RFC 5382, REQ-5) */
	TCP_ESTABLISHED_S = 24 * 3600, /* at least 2 h 4 min (RFC 5382, REQ-5) */
	UDP_NEW_S = 2 * 60, /* at least (RFC 4787, REQ-5) */
	UDP_ANSWERED_S = 5 * 60, /* recommended (RFC 4787, REQ-5) */
	ICMP_S = 60, /* RFC 5508, REQ-2 */
	SEEN_STEP_S = 1, /* how far the time of the last packet may lag, to spare cache lines */
};

#define NS_PER_S 1000000000LL

/* The places that a packet goes from and to. */
struct trip {
	__u32 from;
	__u32 to;
};

static __always_inline struct flow *flow_of(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, key);

	return flow ? flow : bpf_map_lookup_elem(&new_flows, key);
}

static __always_inline struct flow *find_flow(const struct packet *p)
{
	return flow_of(&p->key);
}

/* Indices into a flow's ends: who sent this packet, and does it go against the first one? */
static __always_inline __u32 sender_in(const struct flow *flow, const struct packet *p)
{
	return (flow->swapped ^ p->swapped) & 1;
}

static __always_inline bool is_current(const struct flow *flow)
{
	__u32 *first = bpf_map_lookup_elem(&generations, &flow->place[0]);
	__u32 *second = bpf_map_lookup_elem(&generations, &flow->place[1]);

	return first && second && flow->generation[0] == *first && flow->generation[1] == *second;
}

static __always_inline __s64 lifetime_ns(const struct flow *flow, __u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return NS_PER_S * (flow->replied && !flow->closing ? TCP_ESTABLISHED_S : TCP_TRANSITORY_S);
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

	return idle_ns > lifetime_ns(flow, protocol);
}

static __always_inline bool is_alive(const struct flow *flow, const struct packet *p)
{
	return !is_over(flow, p->key.protocol) && !begins_anew(flow, p);
}

/* Note the packet in its flow, or false when that is over. Shared cache lines are written only if
 * something changed. */
static __always_inline bool keep_alive(struct flow *flow, const struct packet *p)
{
	__u64 now_ns = bpf_ktime_get_coarse_ns();
	__s64 idle_ns = now_ns - flow->seen_ns;

	if (idle_ns > NS_PER_S * SEEN_STEP_S) {
		if (idle_ns > lifetime_ns(flow, p->key.protocol))
			return false;
		flow->seen_ns = now_ns;
	}
	if (!(p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST)))
		return true;
	if (begins_anew(flow, p))
		return false;
	if (p->tcp_flags & (TCP_FIN | TCP_RST) && !flow->closing)
		flow->closing = 1;
	return true;
}

/* The first answer: out of the table that a flood may sweep. Should the other be full, it stays. */
static __noinline bool promote(const struct packet *p, const struct flow *flow)
{
	struct flow answered = *flow;

	answered.replied = 1;
	if (bpf_map_update_elem(&flows, &p->key, &answered, BPF_ANY))
		return false;
	bpf_map_delete_elem(&new_flows, &p->key);
	return true;
}

/* Whole values replace whole values, so that no other CPU sees half of one. */
static __always_inline int put_flow(const struct packet *p, const struct flow *flow)
{
	if (flow->replied) {
		bpf_map_delete_elem(&new_flows, &p->key);
		return bpf_map_update_elem(&flows, &p->key, flow, BPF_ANY) ? FLOWS_FULL : 0;
	}
	bpf_map_delete_elem(&flows, &p->key);
	return bpf_map_update_elem(&new_flows, &p->key, flow, BPF_ANY) ? FLOWS_FULL : 0;
}

static __noinline int record(const struct packet *p, struct flow *flow, const struct end *first,
			     const struct end *second)
{
	flow->place[0] = first->place;
	flow->place[1] = second->place;
	flow->generation[0] = first->generation;
	flow->generation[1] = second->generation;
	flow->identity[0] = first->identity;
	flow->identity[1] = second->identity;
	flow->seen_ns = bpf_ktime_get_coarse_ns();
	flow->closing |= !!(p->tcp_flags & (TCP_FIN | TCP_RST));
	return put_flow(p, flow);
}

/* The flow so far, if it lives, with this packet's direction noted. */
static __noinline bool resume(const struct packet *p, struct flow *flow)
{
	const struct flow *found = find_flow(p);

	if (!found || !is_alive(found, p))
		return false;
	*flow = *found;
	flow->replied |= sender_in(flow, p);
	return true;
}

static __always_inline bool same_ends(const struct flow_key *a, const struct flow_key *b)
{
	return same_addr(&a->addr[0], &b->addr[0]) && same_addr(&a->addr[1], &b->addr[1]);
}

/* An ICMP error goes back to who sent the packet that it quotes, if that one's flow lives (RFC 5508,
 * REQ-4). */
static __noinline bool quotes_flow(struct __sk_buff *skb, const struct packet *p)
{
	struct packet quoted = {};

	if (parse_at(skb, p->transport + sizeof(struct icmp_head), p->version, true, &quoted) ||
	    quoted.swapped == p->swapped || !same_ends(&quoted.key, &p->key))
		return false;
	struct flow *flow = find_flow(&quoted);
	return flow && is_current(flow) && is_alive(flow, &quoted);
}

static __always_inline int judge(struct __sk_buff *skb, const struct packet *p, const struct flow *flow,
				 const struct end *first, const struct end *second)
{
	struct service service = {
		.protocol = p->key.protocol,
		.first = flow->swapped,
		.port = port_of(p, !flow->swapped),
	};

	return evaluate(skb, p, &service, first, second);
}

/* 0, or why not. The verdict is about the direction of the first packet, whichever way this one goes. */
static __noinline int admit_by_policy(struct __sk_buff *skb, const struct packet *p, const struct end *source,
				      const struct end *destination)
{
	struct flow flow = {.swapped = p->swapped};
	bool known = resume(p, &flow);

	if (!known && p->role == ANSWERS) /* nobody asked */
		return source->place < FIRST_NODE ? POLICY_EGRESS : POLICY_INGRESS;
	bool turned = sender_in(&flow, p);
	const struct end *first = turned ? destination : source, *second = turned ? source : destination;
	int reason = judge(skb, p, &flow, first, second);
	if (reason) /* a known flow stays, stale: forgotten, it would be the far end's to begin, the other way round */
		return reason;
	return p->role == OPENS || known ? record(p, &flow, first, second) : 0;
}

/* An error has no flow of its own. (One function less deep than its flow's: the stack is short.) */
static __always_inline int admit(struct __sk_buff *skb, const struct packet *p, const struct end *source,
				 const struct end *destination)
{
	if (p->role == REPORTS && quotes_flow(skb, p))
		return 0;
	return admit_by_policy(skb, p, source, destination);
}

#endif
