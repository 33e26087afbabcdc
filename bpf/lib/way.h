/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Where does a packet go? Three ways to know, each rarer and slower than the one
 * before: the copy of a busy flow, the flow, and asking addresses and policy.
 */
#ifndef MESHFABRIC_WAY_H
#define MESHFABRIC_WAY_H

#include "mss.h"
#include "recent.h"

/* Each program has its own: may the packet have come the way that it came? */
static bool is_sender(struct __sk_buff *skb, const struct trip *trip);

/* And: judge a first packet, or one whose flow is stale. The place it goes to, or -reason. */
static int ask(struct __sk_buff *skb, const struct packet *p);

/* The place that the flow leads to, 0 when it does not tell. */
static __noinline int follow(struct __sk_buff *skb, const struct packet *p)
{
	struct flow *settled = bpf_map_lookup_elem(&flows, &p->key);
	struct flow *flow = settled ? settled : bpf_map_lookup_elem(&new_flows, &p->key);

	if (!flow || !is_current(flow))
		return 0;
	__u32 turned = sender_in(flow, p);
	struct trip trip = {flow->place[turned], flow->place[!turned], note_of(flow->service_class, turned)};
	if (!is_sender(skb, &trip) || !keep_alive(flow, p))
		return 0;
	note_trip(skb, &trip);
	if (is_established(flow) && trip.from != WORLD &&
	    trip.to != WORLD) /* those want their translation as well */
		keep_recent(p, flow);
	if (is_established(flow) && !settled)
		settle(p, flow);
	if (!is_established(flow) && settled) {
		unsettle(p, flow);
		forget_recent(p);
	}
	return trip.to;
}

/* The place, or -reason. `l3` is where the IP packet starts. */
static __always_inline int find_place(struct __sk_buff *skb, const struct packet *p, __u32 l3)
{
	struct trip trip;

	if (recall(p, &trip) && is_sender(skb, &trip)) {
		note_trip(skb, &trip);
		return trip.to;
	}
	int place = follow(skb, p);
	if (!place)
		place = ask(skb, p);
	if (place > 0 && tells_mss(p))
		fit_mss(skb, p, l3, place);
	return place;
}

#endif
