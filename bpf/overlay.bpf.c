// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from a WireGuard device, where packets are in clear and have no link
 * header. WireGuard has proved that the source address is the sending node's.
 *
 *      tunnel --from_overlay--> a workload, or back if it is a probe
 *      tunnel <---to_overlay--- only what workload.bpf.c sends, and the host's probes
 */
#include "deliver.h"
#include "fragment.h"
#include "stamp.h"
#include "way.h"

static __noinline int ask(struct __sk_buff *skb, const struct packet *p)
{
	__u32 from = place_of(p, source_end(p)), to = place_of(p, destination_end(p));
	struct end source, destination;

	if (!find_end(p, source_end(p), from, &source) || !is_node(source.place))
		return -SPOOFED_SOURCE;
	if (!find_end(p, destination_end(p), to, &destination) || !destination.place ||
	    destination.place >= FIRST_NODE)
		return -NOT_OURS;
	int reason = admit(skb, p, &source, &destination);
	return reason ? -reason : (int)destination.place;
}

/* From another node to this one? */
static __always_inline bool is_sender(const struct __sk_buff *skb, const struct trip *trip)
{
	return is_node(trip->from) && trip->to < FIRST_NODE;
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct packet p;
	int reason = parse_datagram(skb, &p);

	if (reason)
		return drop(skb, reason);
	if (is_probe(&p)) {
		__u32 node = probed_node(&p, destination_end(&p));
		if (node)
			return probe_arrives(skb, &p, node);
	}
	int place = find_place(skb, &p, 0);
	if (place < 0)
		return drop(skb, -place);
	note_first_fragment(&p);
	return to_local(skb, &p, 0, place, RECEIVING);
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	struct packet p;

	if (take_mark(skb)) /* and is it, to the byte, the packet that was judged? */
		return skb->cb[0] == skb->len ? TC_ACT_UNSPEC : drop(skb, MALFORMED);
	if (parse_datagram(skb, &p) || !is_probe(&p) || !is_question(&p))
		return drop(skb, NOT_FROM_FABRIC);
	__u32 node = probed_node(&p, source_end(&p));
	return node ? probe_leaves(skb, &p, node) : drop(skb, NOT_FROM_FABRIC);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
