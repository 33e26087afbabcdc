/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * May these two speak? Nothing is allowed that no entry allows. What policies in
 * audit say of it changes nothing but what is told; established flows never ask.
 */
#ifndef MESHFABRIC_POLICY_H
#define MESHFABRIC_POLICY_H

#include "address.h"
#include "verdict.h"

enum policy_bits { EXACT_PORT_BITS = 96 };

/* What the conversation is about, from the end that spoke first. */
struct service {
	__u8 protocol;
	__u8 first; /* the packet's end that spoke first, an index into its key */
	__be16 port; /* of the other end; ICMP: the type */
};

enum opinion { SAYS_YES = ALLOW, HAS_AUDIT = 2 };

static __always_inline bool stronger(const struct policy_value *a, const struct policy_value *b)
{
	return a->precedence > b->precedence || (a->precedence == b->precedence && a->verdict == DENY);
}

static __noinline int opinion(__u32 subject, const struct end *peer, __u32 direction,
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
	return best ? best->verdict | best->audited << 1 : DENY;
}

static __noinline void tell_audit(const struct packet *p, const struct service *service,
				  const struct end *first, const struct end *second, __u32 direction)
{
	struct audit *told = bpf_ringbuf_reserve(&audits, sizeof(*told), 0);

	if (!told)
		return;
	told->addr[0] = addr_of(p, service->first);
	told->addr[1] = addr_of(p, !service->first);
	told->identity[0] = first->identity;
	told->identity[1] = second->identity;
	told->port = service->port;
	told->protocol = service->protocol;
	told->direction = direction;
	told->pad = 0;
	bpf_ringbuf_submit(told, 0);
}

/* Does the local end of the two allow it? */
static __always_inline bool allowed(struct __sk_buff *skb, const struct packet *p,
				    const struct service *service, const struct end *first,
				    const struct end *second, __u32 direction)
{
	const struct end *subject = direction == EGRESS ? first : second;
	const struct end *peer = direction == EGRESS ? second : first;
	int found = opinion(subject->identity, peer, direction, service);

	if (found == (SAYS_YES | HAS_AUDIT) &&
	    !(opinion(subject->identity, peer, direction | AUDIT, service) & SAYS_YES)) {
		count(skb, AUDITED);
		tell_audit(p, service, first, second, direction);
	}
	return found & SAYS_YES;
}

/* 0, or who denies. The far end of a tunnel asks its own policy: each node knows its workloads' only. */
static __always_inline int evaluate(struct __sk_buff *skb, const struct packet *p,
				    const struct service *service, const struct end *first,
				    const struct end *second)
{
	if (first->place < FIRST_NODE && !allowed(skb, p, service, first, second, EGRESS))
		return POLICY_EGRESS;
	if (second->place < FIRST_NODE && !allowed(skb, p, service, first, second, INGRESS))
		return POLICY_INGRESS;
	return 0;
}

#endif
