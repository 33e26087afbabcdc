// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * To and from a workload: on the node's side of a pod's pair, on a VM's tap, on
 * the far side of the host's own pair.
 *
 *      pod --from_workload--> tunnel (overlay.bpf.c) or another workload
 *      pod <---to_workload--- only what these programs send out of the device
 *                             (what was received goes past it into a pod)
 *
 * from_netkit is the same on a netkit pair, whose programs the pod's own sending runs.
 */
#include "deliver.h"
#include "fragment.h"
#include "neighbour.h"
#include "probe.h"
#include "way.h"
#include "world.h"

enum { NO_DEVICE = 0 }; /* no ifindex is */

static __noinline int ask(struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	__u32 *device = bpf_map_lookup_elem(&devices, &ifindex);
	struct end source, destination;

	if (leaves_no_link(p))
		return -LINK_SCOPE;
	if (!device)
		return -UNKNOWN_WORKLOAD;
	if (!find_end(p, source_end(p), *device, &source) || source.place != *device)
		return -SPOOFED_SOURCE;
	note_sender(skb, source.place);
	if (is_probe(p)) /* nobody speaks for the hosts' probes */
		return -UNSUPPORTED;
	__u32 place = place_of(p, destination_end(p));
	if (!find_end(p, destination_end(p), place, &destination) || !destination.place)
		return -NO_ROUTE;
	int reason = destination.place == WORLD ? refused_by_world(p) : 0;
	if (!reason)
		reason = admit(skb, p, &source, &destination);
	return reason ? -reason : (int)destination.place;
}

/* Does the place belong to the device that the packet came from? */
static __always_inline bool is_sender(struct __sk_buff *skb, const struct trip *trip)
{
	struct workload *sender = bpf_map_lookup_elem(&workloads, &trip->from);

	return sender && sender->ifindex == skb->ifindex;
}

static __always_inline int leave_workload(struct __sk_buff *skb, enum moment moment)
{
	struct packet p;
	int reason = parse_frame(skb, &p);

	if (reason)
		return reason == NOT_IP ? not_ip(skb) : drop(skb, reason);
	int place = find_place(skb, &p, ETH_HLEN);
	if (place < 0)
		return place == -LINK_SCOPE ? on_link(skb, &p) : drop(skb, -place);
	note_first_fragment(&p);
	if (place < FIRST_NODE)
		return to_local(skb, &p, ETH_HLEN, place, moment);
	return place == WORLD ? leave(skb, &p) : to_node(skb, &p, place);
}

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	return leave_workload(skb, RECEIVING);
}

/* A drop would be told to the sender as a full queue (ENOBUFS), and it would try again and again: a redirect
 * to no device loses the packet as a wire does. */
SEC("tc")
int from_netkit(struct __sk_buff *skb)
{
	int verdict = leave_workload(skb, SENDING);

	return verdict == TC_ACT_SHOT ? bpf_redirect(NO_DEVICE, 0) : verdict;
}

SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	return take_mark(skb) ? TC_ACT_UNSPEC : drop(skb, NOT_FROM_FABRIC);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
