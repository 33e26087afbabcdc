/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What class is a packet of? The sender's workload says, its rules by the server's
 * port if it has any, its rules by DSCP if it has those.
 *
 *      first packet of a flow  workload, rule by port   -> kept in the flow, for both ends
 *      all that follow         the flow, or its copy
 *      each, of those that have rules by DSCP           -> one more look-up
 *
 * What has no flow (an ICMP error) is of the workload's own class.
 */
#ifndef MESHFABRIC_CLASSIFY_H
#define MESHFABRIC_CLASSIFY_H

#include "address.h"
#include "class.h"
#include "hash.h"

enum rule_bits { EXACT_RULE_BITS = 64, BITS_OF_A_CLASS = 4 };

/* What a packet's program notes of it, in skb->cb beside what the next one is told (verdict.h). */
enum noted { SENDER = 3, CLASS_NOTED = 4 };
enum class_note { CLASS_MASK = CLASSES - 1, ANSWERS_BACK = CLASSES }; /* the sender is not who spoke first */

/* The class that a sender's rules say, else `otherwise`. */
static __noinline __u32 class_by_rules(__u32 place, __u32 dscp, __u32 protocol, __u32 port, __u32 otherwise)
{
	struct class_rule_key key = {
		.prefixlen = EXACT_RULE_BITS,
		.place = place,
		.dscp = dscp,
		.protocol = protocol,
		.port = port,
	};
	__u32 *class = bpf_map_lookup_elem(&class_rules, &key);

	return class ? *class : otherwise;
}

/* Of what the workload at that place sends in a conversation about a port, as far as that tells. */
static __always_inline __u32 conversation_class(__u32 place, __u8 protocol, __be16 port)
{
	struct workload *sender = bpf_map_lookup_elem(&workloads, &place);

	if (!sender) /* another node's, which classes it there */
		return DEFAULT_CLASS;
	return sender->class_rules & BY_PORT ? class_by_rules(place, ANY_DSCP, protocol, port, sender->class)
					     : sender->class;
}

/* The same for both ends, as a flow keeps them. */
static __always_inline __u8 classes_of_ends(const __u32 *place, __u8 protocol, __be16 port)
{
	return conversation_class(place[0], protocol, port) | conversation_class(place[1], protocol, port)
								      << BITS_OF_A_CLASS;
}

/* As a note: of the end that spoke first, or of the one that answers back. */
static __always_inline __u32 note_of(__u8 service_class, bool answers)
{
	return answers ? ANSWERS_BACK | service_class >> BITS_OF_A_CLASS : service_class & CLASS_MASK;
}

/* Of whom nothing else is known. */
static __always_inline void note_sender(struct __sk_buff *skb, __u32 place)
{
	struct workload *sender = bpf_map_lookup_elem(&workloads, &place);

	skb->cb[SENDER] = place;
	skb->cb[CLASS_NOTED] = sender ? sender->class : DEFAULT_CLASS;
}

static __always_inline __u32 dscp_of(struct __sk_buff *skb, __u32 l3, __u32 version)
{
	__u8 head[2];

	if (bpf_skb_load_bytes(skb, l3, head, sizeof(head)))
		return 0;
	return version == 4 ? head[1] >> 2 : (head[0] & 0xf) << 2 | head[1] >> 6;
}

/* With what the packet itself says; `otherwise` where no rule is about that. */
static __noinline __u32 class_by_dscp(struct __sk_buff *skb, const struct packet *p, __u32 l3,
				      __u32 otherwise)
{
	__u32 server = skb->cb[CLASS_NOTED] & ANSWERS_BACK ? source_end(p) : destination_end(p);

	return class_by_rules(skb->cb[SENDER], dscp_of(skb, l3, p->version), p->key.protocol,
			      port_of(p, server), otherwise);
}

/* On its way to another node, as the last edit. What is of the default class mostly says nothing. */
static __always_inline void tell_noted_class(struct __sk_buff *skb, const struct packet *p, __u32 l3)
{
	__u32 place = skb->cb[SENDER], class = skb->cb[CLASS_NOTED] & CLASS_MASK;
	struct workload *sender = bpf_map_lookup_elem(&workloads, &place);

	if (!is_class_heard() || !sender)
		return;
	if (sender->class_rules & BY_DSCP)
		class = class_by_dscp(skb, p, l3, class);
	if (class || sender->class_rules & TELLS_DEFAULT)
		tell_class(skb, class, hash_key((const __u64 *)&p->key));
}

#endif
