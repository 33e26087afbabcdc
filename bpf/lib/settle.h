/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The two tables of flows. Established ones settle in `flows`, where nobody is
 * evicted; all others pass through `new_flows`, where the least recently used one
 * makes room. So whatever begins, is refused or is over harms but its like.
 *
 *      nothing --first packet--> new_flows --established--> flows --over--> new_flows --> nothing
 *
 * One workload has no more than its share of `flows`, so that none can crowd out others.
 * The packet that finds no room, or its share used up, takes out what has been silent for
 * too long; where there is too little of that, nobody tries again for a while. Who then
 * has no room stays in new_flows, is forwarded all the same, and asks again later.
 */
#ifndef MESHFABRIC_SETTLE_H
#define MESHFABRIC_SETTLE_H

#include <linux/errno.h>
#include "life.h"
#include "maps.h"
#include "settings.h"

enum sweep_policy {
	SWEEP_ENOUGH = 4096, /* taken out by one pass */
	SWEEP_PAUSE_S = 10, /* after a pass that found less, having looked at all: 11 ms for 131,072 flows */
};

enum { EVERYONE = 0 }; /* in place of a payer; no place is */

/* Who has no room: connections of others may be silent as long as ever. */
struct crowd {
	__u64 now_ns;
	__u32 payer;
};

static __always_inline struct sweep *last_sweep(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&sweeps, &only);
}

static __always_inline struct flow *flow_of(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, key);

	return flow ? flow : bpf_map_lookup_elem(&new_flows, key);
}

static __always_inline struct flow *find_flow(const struct packet *p)
{
	return flow_of(&p->key);
}

/* A flow is counted to its first local end, wherever that lives when it settles. */
static __always_inline __u32 payer_of(const struct flow *flow)
{
	return flow->place[0] < FIRST_NODE ? flow->place[0] : flow->place[1];
}

static __always_inline __s32 *share_of(__u32 payer)
{
	return bpf_map_lookup_elem(&shares, &payer);
}

static __always_inline void charge(__u32 payer, __s32 flows)
{
	__s32 *share = share_of(payer);

	if (share)
		__sync_fetch_and_add(share, flows);
}

static long take_out_silent(void *map, const struct flow_key *key, const struct flow *flow,
			    const struct crowd *crowd)
{
	bool crowded = crowd->payer == EVERYONE || crowd->payer == flow->payer;
	__s64 idle_ns = crowd->now_ns - flow->seen_ns;
	struct sweep *sweep = last_sweep();

	if (!sweep ||
	    idle_ns <= lifetime_ns(flow, key->protocol, crowded ? TCP_CROWDED_S : TCP_ESTABLISHED_S))
		return 0;
	__u32 payer = flow->payer;
	if (!bpf_map_delete_elem(&flows, key))
		charge(payer, -1);
	return --sweep->wanted == 0;
}

/* True after a pass; one CPU at a time. */
static __noinline bool make_room(__u32 payer)
{
	struct crowd crowd = {.now_ns = bpf_ktime_get_coarse_ns(), .payer = payer};
	struct sweep *sweep = last_sweep();

	if (!sweep)
		return false;
	__u64 begun_ns = *(volatile __u64 *)&sweep->begun_ns;
	if (begun_ns && crowd.now_ns - begun_ns < NS_PER_S * SWEEP_PAUSE_S)
		return false;
	if (!__sync_bool_compare_and_swap(&sweep->begun_ns, begun_ns, crowd.now_ns))
		return false;
	sweep->wanted = SWEEP_ENOUGH;
	bpf_for_each_map_elem(&flows, take_out_silent, &crowd, 0);
	if (!*(volatile __u32 *)&sweep->wanted)
		*(volatile __u64 *)&sweep->begun_ns = 0;
	return true;
}

static __always_inline bool has_share_left(__u32 payer)
{
	__s32 *share = share_of(payer);

	return share && *(volatile __s32 *)share < (__s32)largest_share;
}

static __always_inline bool take_seat(const struct packet *p, const struct flow *flow)
{
	if (!has_share_left(flow->payer))
		return false;
	long failed = bpf_map_update_elem(&flows, &p->key, flow, BPF_NOEXIST);
	if (!failed)
		charge(flow->payer, 1);
	return !failed || failed == -EEXIST; /* another CPU was quicker */
}

/* Whole values replace whole values, so that no other CPU sees half of one. */
static __noinline bool settle(const struct packet *p, struct flow *flow)
{
	if (bpf_map_update_elem(&flows, &p->key, flow, BPF_EXIST)) {
		flow->payer = payer_of(flow);
		if (!take_seat(p, flow) &&
		    !(make_room(has_share_left(flow->payer) ? EVERYONE : flow->payer) && take_seat(p, flow)))
			return false;
	}
	bpf_map_delete_elem(&new_flows, &p->key);
	return true;
}

static __noinline bool unsettle(const struct packet *p, const struct flow *flow)
{
	struct flow *settled = bpf_map_lookup_elem(&flows, &p->key);
	__u32 payer = settled ? settled->payer : 0;

	if (bpf_map_update_elem(&new_flows, &p->key, flow, BPF_ANY))
		return false;
	if (settled && !bpf_map_delete_elem(&flows, &p->key))
		charge(payer, -1);
	return true;
}

static __always_inline int put_flow(const struct packet *p, struct flow *flow)
{
	return (is_established(flow) && settle(p, flow)) || unsettle(p, flow) ? 0 : FLOWS_FULL;
}

#endif
