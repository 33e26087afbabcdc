/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * May these two speak? Nothing is allowed that no entry allows.
 */
#ifndef MESHFABRIC_POLICY_H
#define MESHFABRIC_POLICY_H

#include "address.h"

enum policy_bits { EXACT_PORT_BITS = 96 };

/* What the conversation is about, from the end that spoke first. */
struct service {
	__u8 protocol;
	__be16 port; /* of the other end; ICMP: the type */
};

static __always_inline bool stronger(const struct policy_value *a, const struct policy_value *b)
{
	return a->precedence > b->precedence || (a->precedence == b->precedence && a->verdict == DENY);
}

static __noinline bool allowed(__u32 subject, const struct end *peer, __u32 direction,
			       const struct service *service)
{
	struct policy_key key = {
		.prefixlen = EXACT_PORT_BITS,
		.subject = subject,
		.peer = peer->identity,
		.direction = direction,
		.protocol = service->protocol,
		.port = service->port,
	};
	struct policy_value *exact = bpf_map_lookup_elem(&policy, &key);

	key.peer = peer->place == WORLD ? ANY_WORLD : ANY_PEER;
	struct policy_value *any = bpf_map_lookup_elem(&policy, &key);
	struct policy_value *best = exact && (!any || stronger(exact, any)) ? exact : any;
	return best && best->verdict == ALLOW;
}

/* 0, or who denies. The far end of a tunnel asks its own policy: each node knows its workloads' only. */
static __always_inline int evaluate(const struct end *first, const struct end *second,
				    const struct service *service)
{
	if (first->place < FIRST_NODE && !allowed(first->identity, second, EGRESS, service))
		return POLICY_EGRESS;
	if (second->place < FIRST_NODE && !allowed(second->identity, first, INGRESS, service))
		return POLICY_INGRESS;
	return 0;
}

#endif
