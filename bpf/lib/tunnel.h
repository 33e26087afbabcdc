/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * To and from a tunnel's device, where packets are in clear and have no link
 * header. overlay.bpf.c and plain.bpf.c are the two kinds of tunnels.
 *
 *      tunnel --leaves_tunnel--> a workload, or back if it is a probe
 *      tunnel <--enters_tunnel-- only what workload.bpf.c sends, and the host's probes
 */
#ifndef MESHFABRIC_TUNNEL_H
#define MESHFABRIC_TUNNEL_H

#include "deliver.h"
#include "fragment.h"
#include "stamp.h"
#include "way.h"

/* Each kind has its own: was it the node at that place that sent the packet? */
static bool is_proved(struct __sk_buff *skb, __u32 place);

static __noinline int ask(struct __sk_buff *skb, const struct packet *p)
{
	__u32 from = place_of(p, source_end(p)), to = place_of(p, destination_end(p));
	struct end source, destination;

	if (!find_end(p, source_end(p), from, &source) || !is_node(source.place))
		return -SPOOFED_SOURCE;
	if (!is_proved(skb, source.place))
		return -STRANGER;
	if (!find_end(p, destination_end(p), to, &destination) || !destination.place ||
	    destination.place >= FIRST_NODE)
		return -NOT_OURS;
	int reason = admit(skb, p, &source, &destination);
	return reason ? -reason : (int)destination.place;
}

/* From another node to this one? */
static __always_inline bool is_sender(struct __sk_buff *skb, const struct trip *trip)
{
	return is_node(trip->from) && trip->to < FIRST_NODE && is_proved(skb, trip->from);
}

static __always_inline int leaves_tunnel(struct __sk_buff *skb)
{
	struct packet p;
	int reason = parse_datagram(skb, &p);

	if (reason)
		return drop(skb, reason);
	if (is_probe(&p)) {
		__u32 node = probed_node(&p, destination_end(&p));
		if (node)
			return is_proved(skb, node) ? probe_arrives(skb, &p, node) : drop(skb, STRANGER);
	}
	int place = find_place(skb, &p, 0);
	if (place < 0)
		return drop(skb, -place);
	note_first_fragment(&p);
	if (flows_shared)
		watch(skb, &p, 0);
	return to_local(skb, &p, 0, place, RECEIVING);
}

/* May the packet enter? `place` becomes that of the node that it is for. */
static __always_inline int enters_tunnel(struct __sk_buff *skb, __u32 *place)
{
	struct packet p;

	if (take_mark(skb)) { /* and is it, to the byte, the packet that was judged? */
		*place = skb->cb[FOR_PLACE];
		return skb->cb[JUDGED_LENGTH] == skb->len ? TC_ACT_UNSPEC : drop(skb, MALFORMED);
	}
	if (parse_datagram(skb, &p) || !is_probe(&p) || !is_question(&p))
		return drop(skb, NOT_FROM_FABRIC);
	*place = probed_node(&p, source_end(&p));
	return *place ? probe_leaves(skb, &p, *place) : drop(skb, NOT_FROM_FABRIC);
}

#endif
