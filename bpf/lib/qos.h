/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * When a packet of a tunnel's leaves by an uplink, and what its outer header says:
 * by its class, which it told by its hash (class.h). What tells none is of WireGuard
 * itself (handshakes, keepalives) and goes with the fabric's control traffic.
 *
 *      to_uplink --class--> clocks --departure--> fq, which holds it until then
 *                             +---- too late ---> drop, QUEUE_FULL
 *
 * Nothing waits here: a packet gets the time of its departure (EDT: Saeed et al., "Carousel", SIGCOMM 2017)
 * and fq sends it then. The queue is what the clocks of a device are ahead of now.
 *
 *      link[p]        the link is free for priority p. All that is sent with that priority or a higher one moves
 *                     it on by the time that takes; what is past starts from now.
 *      guaranteed[c]  class c may go by its guarantee: its last departure, and what that took at this rate.
 *      most[c]        the same for the most that it may have.
 *
 *      departure = link[p], or guaranteed[c] if that is earlier; not before most[c]
 *
 * **Nothing is left unused.** Only its most holds a class back while nobody else wants the link: link[p] counts
 * from now when it is past, and is moved by what was sent, not by what might be.
 *
 * **Higher priorities wait for nobody below**: link[p] knows nothing of them. They push the lower clocks back
 * instead, so that what comes later of those departs later. What was given its departure before keeps it: for as
 * long as that reaches ahead (`horizon_ns` at most) link and queue have to bear both, and fq, whose flows take
 * turns, is where the excess waits. In the long run the lowest clock has counted every packet, and moves no
 * faster than time.
 *
 * **A guarantee holds while the link is full**: guaranteed[c] depends on nothing but the class' own departures.
 * Who goes by it goes before all priorities, so it moves all of their clocks: as long as the guarantees together
 * are no more than the capacity, nothing is promised twice.
 *
 * A class' departures never go backwards: each of its clocks is moved beyond every departure that it gave.
 *
 * One lock for a device, taken for a few loads and stores: that two CPUs take turns at the clocks of a device is
 * what they do at its queue, too.
 */
#ifndef MESHFABRIC_QOS_H
#define MESHFABRIC_QOS_H

#include "class.h"
#include "outer.h"
#include "verdict.h"

enum queue_policy {
	LEAST_QUEUE = 8, /* packets like this one may wait, however slow their class */
	LEAST_UNMARKED = 2, /* and so many are no congestion (RFC 8289, 4.2: one at least) */
};

enum marks { MARKS_OF_A_SLOT = 8, WG_MARKS = GENERATIONS * MAX_SLOTS * MARKS_OF_A_SLOT, NO_SLOT = MAX_SLOTS };
enum wire {
	ETHERNET_AROUND = 24
}; /* preamble, check sequence and gap of each frame (IEEE 802.3, 3.1.1, 4.4.2) */
enum ecn { NOT_ECT = 0, CE = 3, ECN_MASK = 3, BITS_OF_ECN = 2 }; /* RFC 3168, 5 */
enum dscp { AS_IT_IS = 0 };

#define PS_IN_A_NS 1000ULL
#define LONGEST_PACE_NS (10 * 1000 * 1000 * 1000ULL) /* fq's own horizon: what says more tells another time */

/* What a packet asks of the clocks; times in ns. */
struct request {
	__u64 now;
	__u64 paced; /* its socket's own time, no earlier than now */
	__u64 link; /* what it takes of the link */
	__u64 guaranteed; /* and of the class' rates, 0: there is none */
	__u64 most;
	__u32 class;
	__u32 priority;
};

/* The slot of a packet of a tunnel's, by its mark: mark base + 64 * generation + 8 * local + remote, or that of
 * its uplink where it is not encrypted. Across WireGuard that is no kernel's nothing is told. */
static __always_inline __u32 slot_of(__u32 mark)
{
	if (wg_keeps_hash && tunnel_mark && mark - tunnel_mark < WG_MARKS)
		return (mark - tunnel_mark) / MARKS_OF_A_SLOT % MAX_SLOTS;
	return plain_slots && mark - plain_mark < MAX_SLOTS ? mark - plain_mark : NO_SLOT;
}

static __always_inline __u64 later(__u64 a, __u64 b)
{
	return a > b ? a : b;
}

static __always_inline __u64 time_of(__u64 length, __u32 ps_per_byte)
{
	return (length * ps_per_byte + PS_IN_A_NS - 1) / PS_IN_A_NS;
}

/* In bytes of the link's time; a packet that is yet to be cut is many frames. */
static __always_inline __u64 length_on_wire(const struct __sk_buff *skb)
{
	__u32 frames = skb->gso_segs;

	return skb->wire_len + (__u64)(frames ? frames : 1) * ETHERNET_AROUND;
}

static __always_inline struct request request_of(struct __sk_buff *skb, const struct traffic_class *class,
						 __u32 number, __u32 ps_per_byte)
{
	__u64 length = length_on_wire(skb), paced = skb->tstamp, now = bpf_ktime_get_ns();

	return (struct request){
		.now = now,
		.paced = paced - now < LONGEST_PACE_NS ? paced : now,
		.link = time_of(length, ps_per_byte),
		.guaranteed = time_of(length, class->guaranteed),
		.most = time_of(length, class->most),
		.class = number % CLASSES,
		.priority = class->priority % PRIORITIES,
	};
}

/* How long a packet may wait, or a little less: some like it may always be before it. */
static __always_inline __u64 at_least(__u64 limit_ns, const struct request *r, __u32 packets)
{
	return later(limit_ns, packets * later(r->link, r->most));
}

/* When it departs; 0: it would wait too long, and no clock was moved. */
static __always_inline __u64 take_turn(struct clocks *device, const struct request *r, __u64 longest_ns)
{
	__u32 rank = r->priority;

	bpf_spin_lock(&device->lock);
	__u64 departs = later(device->link[r->priority], r->now);
	__u64 entitled = later(device->guaranteed[r->class], r->now);
	if (r->guaranteed && entitled < departs) {
		departs = entitled;
		rank = PRIORITIES - 1;
	}
	if (r->most)
		departs = later(departs, device->most[r->class]);
	if (departs - r->now > longest_ns) {
		departs = 0;
	} else {
		departs = later(departs, r->paced);
#pragma unroll /* as a loop it may go too far, for all that the verifier of Linux 6.1 sees */
		for (__u32 lower = 0; lower < PRIORITIES; lower++) {
			if (lower <= rank)
				device->link[lower] = later(device->link[lower], r->now) + r->link;
		}
		device->guaranteed[r->class] = departs + r->guaranteed;
		device->most[r->class] = departs + r->most;
	}
	bpf_spin_unlock(&device->lock);
	return departs;
}

/* The IP header's traffic class, DSCP and ECN, as class and congestion want it. True if that told of congestion. */
static __always_inline bool write_header(struct __sk_buff *skb, __u32 l3, __u32 version, __u8 dscp,
					 bool congested)
{
	__u8 head[2];

	if (bpf_skb_load_bytes(skb, l3, head, sizeof(head)))
		return false;
	__u8 old = version == 4 ? head[1] : head[0] << 4 | head[1] >> 4, ecn = old & ECN_MASK;
	bool marks = congested && ecn != NOT_ECT && ecn != CE;
	__u8 new = (dscp ? dscp << BITS_OF_ECN : old & ~ECN_MASK) | (marks ? CE : ecn);
	if (new == old)
		return false;
	if (version == 4) {
		__be16 before = bpf_htons(head[0] << 8 | old), after = bpf_htons(head[0] << 8 | new);
		bpf_l3_csum_replace(skb, l3 + __builtin_offsetof(struct iphdr, check), before, after,
				    sizeof(after));
		bpf_skb_store_bytes(skb, l3 + __builtin_offsetof(struct iphdr, tos), &new, sizeof(new), 0);
		return marks;
	}
	head[0] = (head[0] & 0xf0) | new >> 4;
	head[1] = (head[1] & 0x0f) | new << 4;
	bpf_skb_store_bytes(skb, l3, head, sizeof(head), 0);
	return marks;
}

static __always_inline struct class_counter *counter_of(__u32 slot, __u32 number)
{
	__u32 at = slot * CLASSES + number;

	return bpf_map_lookup_elem(&class_counters, &at);
}

static __always_inline void count_sent(struct __sk_buff *skb, struct class_counter *counter, bool marked,
				       __u64 delay_ns)
{
	counter->packets++; /* of this CPU alone */
	counter->bytes += skb->wire_len;
	counter->marked += marked;
	counter->delay_ns += delay_ns;
}

static __always_inline int leave_too_late(struct __sk_buff *skb, struct class_counter *counter)
{
	counter->dropped++;
	return drop(skb, QUEUE_FULL);
}

/* By an uplink of which the capacity is known, at the time that the class' clocks say. */
static __noinline int leave_on_time(struct __sk_buff *skb, __u32 l3, __u32 version, __u32 slot, __u32 hash)
{
	__u32 number = is_class_told(hash) ? class_told(hash) : CONTROL_CLASS;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &slot);
	struct traffic_class *class = bpf_map_lookup_elem(&classes, &number);
	struct class_counter *counter = counter_of(slot, number);
	__u32 lead = uplink ? uplink->lead : NO_SLOT;
	struct clocks *device = bpf_map_lookup_elem(&clocks, &lead);

	if (!uplink || !class || !class->known || !counter || !device)
		return TC_ACT_UNSPEC;
	struct request request = request_of(skb, class, number, uplink->ps_per_byte);
	__u64 departs = take_turn(device, &request, at_least(horizon_ns, &request, LEAST_QUEUE));
	if (!departs)
		return leave_too_late(skb, counter);
	bool congested = departs - request.paced > at_least(congested_ns, &request, LEAST_UNMARKED);
	bool marked = write_header(skb, l3, version, is_class_told(hash) ? class->dscp : AS_IT_IS, congested);
	bpf_skb_set_tstamp(skb, departs, BPF_SKB_TSTAMP_DELIVERY_MONO);
	count_sent(skb, counter, marked, departs - request.now);
	return TC_ACT_UNSPEC;
}

/* By any other: only the header says of what class it is. */
static __noinline int leave_at_once(struct __sk_buff *skb, __u32 l3, __u32 version, __u32 slot, __u32 number)
{
	struct traffic_class *class = bpf_map_lookup_elem(&classes, &number);
	struct class_counter *counter = counter_of(slot, number);

	if (!class || !class->known || !counter)
		return TC_ACT_UNSPEC;
	write_header(skb, l3, version, class->dscp, false);
	count_sent(skb, counter, false, 0);
	return TC_ACT_UNSPEC;
}

/* A packet of a tunnel's. What told no class keeps the header that WireGuard gave it. */
static __always_inline int leave_by_class(struct __sk_buff *skb, __u32 l3, __u32 version, __u32 slot)
{
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &slot);
	__u32 hash = *(volatile __u32 *)&skb->hash; /* read once, for the verifier */

	if (uplink && uplink->ps_per_byte)
		return leave_on_time(skb, l3, version, slot, hash);
	return is_class_told(hash) ? leave_at_once(skb, l3, version, slot, class_told(hash)) : TC_ACT_UNSPEC;
}

#endif
