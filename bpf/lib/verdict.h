/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * How a program ends: every drop through one function, everything counted
 * under its reason.
 */
#ifndef MESHFABRIC_VERDICT_H
#define MESHFABRIC_VERDICT_H

#include <linux/pkt_cls.h>
#include "maps.h"
#include "settings.h"

static __always_inline void count(struct __sk_buff *skb, __u32 reason)
{
	struct counter *counter = bpf_map_lookup_elem(&reasons, &reason);

	if (!counter)
		return;
	counter->packets++; /* of this CPU alone */
	counter->bytes += skb->len;
}

static __always_inline int drop(struct __sk_buff *skb, __u32 reason)
{
	count(skb, reason);
	return TC_ACT_SHOT;
}

/* Out of a device whose egress program lets only marked packets pass. */
static __always_inline int send_marked(struct __sk_buff *skb, __u32 ifindex, __u32 reason)
{
	count(skb, reason);
	skb->mark = fabric_mark;
	return bpf_redirect(ifindex, 0);
}

/* What a tunnel's programs are told of a packet. */
enum told {
	JUDGED_LENGTH =
		0, /* without link header. The kernel takes off what lies before the network header, and
			    * where that is a pod may have had a say. */
	FOR_PLACE = 1, /* the node that it is for */
	CAME_BY = 2, /* the mark of the uplink that it came in by, if it was not encrypted */
};

/* The same into a tunnel, which has no link headers: `length` is what is left of a packet without its own. */
static __always_inline int send_into_tunnel(struct __sk_buff *skb, __u32 ifindex, __u32 length, __u32 place,
					    __u32 reason)
{
	skb->cb[JUDGED_LENGTH] = length;
	skb->cb[FOR_PLACE] = place;
	return send_marked(skb, ifindex, reason);
}

/* May packets come and go in clear by this uplink? */
static __always_inline bool is_trusted(__u32 slot)
{
	return slot < MAX_SLOTS && plain_slots >> slot & 1;
}

/* The egress side of the same agreement: is it from us? */
static __always_inline bool take_mark(struct __sk_buff *skb)
{
	if (skb->mark != fabric_mark)
		return false;
	skb->mark = 0;
	return true;
}

#endif
