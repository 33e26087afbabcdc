/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Flows: made by the first packet that the policy allows, followed without
 * asking it again, until a generation moves or the time runs out. settle.h keeps
 * them, life.h says how long.
 */
#ifndef MESHFABRIC_CONNTRACK_H
#define MESHFABRIC_CONNTRACK_H

#include "classify.h"
#include "policy.h"
#include "settle.h"

/* The places that a packet goes from and to. */
struct trip {
	__u32 from;
	__u32 to;
	__u32 noted; /* its class, as a note */
};

static __always_inline void note_trip(struct __sk_buff *skb, const struct trip *trip)
{
	skb->cb[SENDER] = trip->from;
	skb->cb[CLASS_NOTED] = trip->noted;
}

static __always_inline bool is_current(const struct flow *flow)
{
	__u32 *first = bpf_map_lookup_elem(&generations, &flow->place[0]);
	__u32 *second = bpf_map_lookup_elem(&generations, &flow->place[1]);

	return first && second && flow->generation[0] == *first && flow->generation[1] == *second;
}

static __always_inline int record(struct __sk_buff *skb, const struct packet *p, struct flow *flow,
				  const struct end *first, const struct end *second)
{
	flow->place[0] = first->place;
	flow->place[1] = second->place;
	flow->generation[0] = first->generation;
	flow->generation[1] = second->generation;
	flow->identity[0] = first->identity;
	flow->identity[1] = second->identity;
	flow->seen_ns = bpf_ktime_get_coarse_ns();
	flow->service_class = classes_of_ends(flow->place, p->key.protocol, port_of(p, !flow->swapped));
	skb->cb[CLASS_NOTED] = note_of(flow->service_class, sender_in(flow, p));
	note_end(flow, p);
	return put_flow(p, flow);
}

/* The flow so far, if it lives, with this packet's direction noted. */
static __noinline bool resume(const struct packet *p, struct flow *flow)
{
	const struct flow *found = find_flow(p);

	if (!found || !is_alive(found, p))
		return false;
	*flow = *found;
	note_turn(flow, p);
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
	return p->role == OPENS || known ? record(skb, p, &flow, first, second) : 0;
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
