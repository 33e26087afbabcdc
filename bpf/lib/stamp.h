/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Probes inside each tunnel: STAMP in unauthenticated mode (RFC 8762), from the
 * host's fabric address. The token makes them (token.h), or where there is none
 * the agent sends them out of the tunnel's device, and they get their time and
 * number here as they leave. The far node reflects them without waking anybody,
 * and they are heard as they come back.
 *
 *      token ---------------------------+
 *      agent --to_overlay: probe_leaves-+-> tunnel --from_overlay: probe_reflect--+
 *           path state <--from_overlay: probe_heard-- tunnel <--------------------+
 *
 * (Without encryption: to_plain and from_plain.)
 *
 * question.h has what they look like.
 */
#ifndef MESHFABRIC_STAMP_H
#define MESHFABRIC_STAMP_H

#include "address.h"
#include "class.h"
#include "probe.h"
#include "question.h"
#include "turn.h"
#include "verdict.h"

enum { NO_PLACE = 0 };

#define PROBE_MEMORY_NS (60 * NTP_NS_PER_S) /* an older answer tells nothing */

/* The state of the node's path over this device. */
static __noinline struct path *path_over(__u32 place, __u32 ifindex)
{
	__u32 node_index = place - FIRST_NODE;
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);

	if (!node)
		return NULL;
	for (__u32 i = 0; i < MAX_PATHS; i++) {
		if (node->ifindex[i] == ifindex)
			return path_at(node_index, i);
	}
	return NULL;
}

static __always_inline bool is_self(__u32 place)
{
	__u32 only = 0;
	struct fabric *f = bpf_map_lookup_elem(&fabric, &only);

	return f && place && f->self == place;
}

/* The other node when the probe runs between its host and ours, our end being `our_end`. */
static __noinline __u32 probed_node(const struct packet *p, __u32 our_end)
{
	if (!is_self(place_of(p, our_end)))
		return NO_PLACE;
	__u32 place = place_of(p, !our_end);
	return is_node(place) ? place : NO_PLACE;
}

static __always_inline __u32 stamp_at(const struct packet *p)
{
	return p->transport + sizeof(struct udphdr);
}

/* Whether more than the test packet itself came along, to see how much the path carries (RFC 8899): what is
 * too large is lost, and that says nothing about the path's life. So it has a number of the agent's, and is
 * not counted at either end. */
static __always_inline bool is_padded(const struct packet *p)
{
	return p->length > stamp_at(p) + sizeof(struct stamp);
}

/* Replace the probe's bytes; right also for a checksum that the device is yet to complete. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *p, const struct stamp *old,
				    const struct stamp *new)
{
	__u32 check_at = p->transport + __builtin_offsetof(struct udphdr, check);
	__s64 sum = bpf_csum_diff((void *)old, sizeof(*old), (void *)new, sizeof(*new), 0);

	return !bpf_l4_csum_replace(skb, check_at, 0, sum, BPF_F_MARK_MANGLED_0) &&
	       !bpf_skb_store_bytes(skb, stamp_at(p), new, sizeof(*new), 0);
}

/* Swapping both addresses and both ports leaves every checksum as it is. */
static __always_inline bool turn_round(struct __sk_buff *skb, const struct packet *p)
{
	struct addr source = addr_of(p, source_end(p)), destination = addr_of(p, destination_end(p));
	__be16 ports[] = {port_of(p, destination_end(p)), port_of(p, source_end(p))};

	if (bpf_skb_store_bytes(skb, p->transport, ports, sizeof(ports), 0))
		return false;
	if (p->version == 4) {
		__be32 both[] = {destination.word[3], source.word[3]};
		return !bpf_skb_store_bytes(skb, __builtin_offsetof(struct iphdr, saddr), both, sizeof(both),
					    0);
	}
	struct addr both[] = {destination, source};
	return !bpf_skb_store_bytes(skb, __builtin_offsetof(struct ipv6hdr, saddr), both, sizeof(both), 0);
}

/* RFC 8762, 4.3: who keeps a session's state counts its answers, who has none repeats the sender's number. */
static __always_inline __be32 next_answer(struct path *path, const struct stamp *question)
{
	return path ? bpf_htonl(__sync_fetch_and_add(&path->reflected, 1)) : question->sequence;
}

static __always_inline void write_answer(struct stamp *answer, const struct stamp *question, __u8 ttl)
{
	write_time(answer, bpf_ktime_get_ns());
	__builtin_memcpy(answer->received, answer->timestamp, sizeof(answer->received));
	answer->sender_sequence = question->sequence;
	__builtin_memcpy(answer->sender_timestamp, question->timestamp, sizeof(answer->sender_timestamp));
	answer->sender_error_estimate = question->error_estimate;
	answer->sender_ttl = ttl;
}

static __noinline int probe_reflect(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	struct path *path = is_padded(p) ? NULL : path_over(place, skb->ifindex);
	struct stamp question, answer = {};

	if (bpf_skb_load_bytes(skb, stamp_at(p), &question, sizeof(question)))
		return drop(skb, MALFORMED);
	answer.sequence = next_answer(path, &question);
	write_answer(&answer, &question, p->ttl);
	if (!rewrite(skb, p, &question, &answer) || !turn_round(skb, p))
		return drop(skb, MALFORMED);
	tell_class(skb, CONTROL_CLASS, 0);
	return send_into_tunnel(skb, skb->ifindex, skb->len, place, PROBE_REFLECTED);
}

static __always_inline bool padded_heard(struct path *path, __u32 ifindex, const struct stamp *answer)
{
	if (path->ifindex != ifindex)
		return false;
	path->padded = bpf_ntohl(answer->sender_sequence);
	return true;
}

static __always_inline void read_answer(const struct stamp *answer, struct hearing *h)
{
	h->asked_ns = from_ntp(answer->sender_timestamp);
	h->out_ns = from_ntp(answer->received) - h->asked_ns;
	h->back_ns = h->heard_ns - from_ntp(answer->timestamp);
	h->question = bpf_ntohl(answer->sender_sequence);
	h->answer = bpf_ntohl(answer->sequence);
}

/* The answer ends here: what it said is in the path's state. */
static __noinline int probe_heard(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	struct path *path = path_over(place, skb->ifindex);
	struct hearing h = {.heard_ns = bpf_ktime_get_ns()};
	struct stamp answer;

	if (!path)
		return drop(skb, NO_PATH);
	if (bpf_skb_load_bytes(skb, stamp_at(p), &answer, sizeof(answer)))
		return drop(skb, MALFORMED);
	if (is_padded(p))
		return drop(skb, padded_heard(path, skb->ifindex, &answer) ? PROBE_HEARD : MALFORMED);
	read_answer(&answer, &h);
	look_for_silence(path, place, skb->ifindex, h.heard_ns);
	__u32 before = grade_of(path, h.heard_ns);
	if (h.heard_ns - h.asked_ns > PROBE_MEMORY_NS || !path_heard(path, skb->ifindex, &h))
		return drop(skb, MALFORMED);
	look_for_change(path, before, place, skb->ifindex);
	return drop(skb, PROBE_HEARD);
}

/* A probe that came out of a tunnel. */
static __always_inline int probe_arrives(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	return is_question(p) ? probe_reflect(skb, p, place) : probe_heard(skb, p, place);
}

static __always_inline void write_own(struct stamp *question, struct path *path, __u32 place, __u32 ifindex)
{
	look_for_silence(path, place, ifindex, bpf_ktime_get_ns());
	write_question(question, path, ifindex);
}

/* A probe of the agent's on its way into a tunnel: its time and number, which the agent could only guess. */
static __noinline int probe_leaves(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	struct path *path = path_over(place, skb->ifindex);
	struct stamp old, new;

	if (!path)
		return drop(skb, NO_PATH);
	if (bpf_skb_load_bytes(skb, stamp_at(p), &old, sizeof(old)))
		return drop(skb, MALFORMED);
	new = old;
	if (is_padded(p))
		write_time(&new, bpf_ktime_get_ns());
	else
		write_own(&new, path, place, skb->ifindex);
	if (!rewrite(skb, p, &old, &new))
		return drop(skb, MALFORMED);
	tell_class(skb, CONTROL_CLASS, 0);
	return TC_ACT_UNSPEC;
}

#endif
