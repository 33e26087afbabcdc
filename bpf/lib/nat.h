/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What the world sees in place of a workload: an address of the node's uplink and
 * a port out of a range that is kept for this. No two flows to one far end have
 * the same, so an answer is for one flow or for none (RFC 4787: the mapping depends
 * on address and port, and filters by them, too).
 *
 *      flow  alpha:40000 - far:443 ---nat_addr, nat_port---> guise 192.0.2.1:61007
 *        ^                                                          |
 *        +----- nat, new_nat: by 192.0.2.1:61007 - far:443 <--------+
 *
 * The flow says what it is seen as, the reverse entry whose that is; neither counts
 * without the other. guise.h makes both.
 */
#ifndef MESHFABRIC_NAT_H
#define MESHFABRIC_NAT_H

#include "recent.h"

static __always_inline bool same_flow(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

static __always_inline struct nat *nat_of(const struct flow_key *seen)
{
	struct nat *found = bpf_map_lookup_elem(&nat, seen);

	return found ? found : bpf_map_lookup_elem(&new_nat, seen);
}

static __always_inline bool goes_by(const struct flow *flow, const struct guise *guise)
{
	return flow->nat_port == guise->port && same_addr(&flow->nat_addr, &guise->addr);
}

/* The flow's key as the world has it. */
static __always_inline void seen_as(const struct nat *one, const struct guise *guise, struct flow_key *seen)
{
	struct addr far = one->inside ? one->flow.addr[0] : one->flow.addr[1];
	__be16 port = one->inside ? one->flow.port[0] : one->flow.port[1];

	order_ends(seen, &guise->addr, &far, port_pair(guise->port, port), one->flow.protocol);
}

#endif
