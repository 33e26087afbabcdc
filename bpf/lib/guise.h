/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A guise for a flow that goes to the world: the one it has, else the first free
 * port of those that it asks for, all chosen by the flow's own hash.
 *
 * A reverse entry lives as long as its flow: it may be taken over when that is over
 * or goes by another guise. What the table lost is put back by the flow's next
 * packet, unless somebody else has the port by then: then the flow gets another.
 */
#ifndef MESHFABRIC_GUISE_H
#define MESHFABRIC_GUISE_H

#include "nat.h"

enum guise_search { PORTS_TRIED = 64 };

/* A flow that has no guise yet is just being given this one. */
static __always_inline bool is_void(const struct nat *there, const struct guise *guise)
{
	struct flow *flow = flow_of(&there->flow);

	return !flow || is_over(flow, there->flow.protocol) || (flow->nat_port && !goes_by(flow, guise));
}

/* True if the guise is the flow's, be it only from now on. */
static __noinline bool claim(const struct nat *wanted, const struct guise *guise)
{
	struct flow_key seen;

	seen_as(wanted, guise, &seen);
	struct nat *there = nat_of(&seen);
	if (there) {
		if (same_flow(&there->flow, &wanted->flow))
			return true;
		if (!is_void(there, guise) || __sync_val_compare_and_swap(&there->taken, 0, 1))
			return false;
		bpf_map_delete_elem(&nat, &seen);
		bpf_map_delete_elem(&new_nat, &seen);
	}
	if (bpf_map_update_elem(&new_nat, &seen, wanted, BPF_NOEXIST)) {
		there = bpf_map_lookup_elem(&new_nat, &seen);
		return there && same_flow(&there->flow, &wanted->flow);
	}
	if (!bpf_map_lookup_elem(&nat, &seen))
		return true;
	bpf_map_delete_elem(&new_nat, &seen); /* another's was answered between our two looks */
	return false;
}

static long try_port(__u32 turn, struct search **handle)
{
	struct search *search = *handle;
	__u32 offset = (search->start + turn * search->step) % world_ports;

	search->guise.port = bpf_htons(world_port_base + offset);
	search->found = claim(&search->wanted, &search->guise);
	return search->found;
}

/* Each flow has an order of its own in which it asks for the ports: so two CPUs with packets of one flow find
 * the same. (bpf_loop wants its context on the stack.) */
static __noinline bool find_port(struct search *search)
{
	__u64 hash = hash_key((const __u64 *)&search->wanted.flow);

	search->start = hash >> 32;
	search->step = (__u32)hash | 1;
	search->found = false;
	bpf_loop(PORTS_TRIED, try_port, &search, 0);
	return search->found;
}

static __always_inline int keep_guise(const struct packet *p, const struct flow *flow,
				      const struct guise *guise)
{
	struct flow translated = *flow;

	translated.nat_addr = guise->addr;
	translated.nat_port = guise->port;
	return put_flow(p, &translated);
}

/* 0, or why the workload's packet has no guise at `source`. A flow keeps its own as long as it leaves from
 * there. What the world began cannot have one. */
static __noinline int choose_guise(const struct packet *p, const struct addr *source, struct search *search)
{
	struct flow *flow = find_flow(p);

	if (!flow)
		return FLOWS_FULL;
	if (sender_in(flow, p))
		return NO_ROUTE;
	search->wanted.flow = p->key;
	search->wanted.inside = source_end(p);
	search->guise.addr = *source;
	search->guise.port = flow->nat_port;
	if (flow->nat_port && goes_by(flow, &search->guise) && claim(&search->wanted, &search->guise))
		return 0;
	return find_port(search) ? keep_guise(p, flow, &search->guise) : NAT_FULL;
}

#endif
