/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Probes inside each tunnel: STAMP in unauthenticated mode (RFC 8762). Somebody
 * sends them from the host's fabric address out of the WireGuard device; here
 * they get their time as they leave, are reflected by the far node without
 * waking it, and are heard as they come back.
 *
 *      host --to_overlay: probe_leaves--> tunnel --from_overlay: probe_reflect--+
 *           path state <--from_overlay: probe_heard-- tunnel <------------------+
 *
 * Times are of the monotonic clock in NTP's 64-bit format (RFC 8762, 4.2.1), the
 * error estimate says that it is synchronised with nobody's (RFC 4656, 4.1.2).
 */
#ifndef MESHFABRIC_STAMP_H
#define MESHFABRIC_STAMP_H

#include "address.h"
#include "liveness.h"
#include "probe.h"
#include "verdict.h"

/* Both directions; what the sender leaves zero the reflector fills in (RFC 8762, 4.2.1 and 4.3.1). */
struct stamp {
	__be32 sequence;
	__be32 timestamp[2]; /* seconds, fraction */
	__be16 error_estimate;
	__u16 zero;
	__be32 received[2];
	__be32 sender_sequence;
	__be32 sender_timestamp[2];
	__be16 sender_error_estimate;
	__u16 zero2;
	__u8 sender_ttl;
	__u8 zero3[3];
} __attribute__((packed));

_Static_assert(sizeof(struct stamp) == 44, "RFC 8762, figures 2 and 4");

enum stamp_field {
	UNSYNCHRONISED = 0x0001, /* S and Z clear, scale 0, multiplier 1: it must not be 0 */
	NO_PLACE = 0,
};

#define NTP_NS_PER_S 1000000000ULL
#define PROBE_MEMORY_NS (60 * NTP_NS_PER_S) /* an older answer tells nothing */

/* The fraction is rounded up, so that from_ntp gives back the very nanosecond. */
static __always_inline void to_ntp(__u64 ns, __be32 *timestamp)
{
	timestamp[0] = bpf_htonl(ns / NTP_NS_PER_S);
	timestamp[1] = bpf_htonl((((ns % NTP_NS_PER_S) << 32) + NTP_NS_PER_S - 1) / NTP_NS_PER_S);
}

static __always_inline __u64 from_ntp(const __be32 *timestamp)
{
	return bpf_ntohl(timestamp[0]) * NTP_NS_PER_S + ((bpf_ntohl(timestamp[1]) * NTP_NS_PER_S) >> 32);
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

/* RFC 8762, 4.3: a stateless reflector repeats the sender's sequence number. */
static __always_inline void write_answer(struct stamp *answer, const struct stamp *question, __u8 ttl)
{
	__u64 now_ns = bpf_ktime_get_ns();

	answer->sequence = question->sequence;
	to_ntp(now_ns, answer->timestamp);
	answer->error_estimate = bpf_htons(UNSYNCHRONISED);
	__builtin_memcpy(answer->received, answer->timestamp, sizeof(answer->received));
	answer->sender_sequence = question->sequence;
	__builtin_memcpy(answer->sender_timestamp, question->timestamp, sizeof(answer->sender_timestamp));
	answer->sender_error_estimate = question->error_estimate;
	answer->sender_ttl = ttl;
}

static __noinline int probe_reflect(struct __sk_buff *skb, const struct packet *p)
{
	struct stamp question, answer = {};

	if (bpf_skb_load_bytes(skb, stamp_at(p), &question, sizeof(question)))
		return drop(skb, MALFORMED);
	write_answer(&answer, &question, p->ttl);
	if (!rewrite(skb, p, &question, &answer) || !turn_round(skb, p))
		return drop(skb, MALFORMED);
	return send_into_tunnel(skb, skb->ifindex, skb->len, PROBE_REFLECTED);
}

/* Whether more than the test packet itself came along, to see how much the path carries (RFC 8899): what is
 * too large is lost, and that says nothing about the path's life. */
static __always_inline bool is_padded(const struct packet *p)
{
	return p->length > stamp_at(p) + sizeof(struct stamp);
}

static __always_inline bool padded_heard(struct path *path, __u32 ifindex, const struct stamp *answer)
{
	if (path->ifindex != ifindex)
		return false;
	path->padded = bpf_ntohl(answer->sender_sequence);
	return true;
}

/* The answer ends here: what it said is in the path's state. */
static __noinline int probe_heard(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	struct path *path = path_over(place, skb->ifindex);
	__u64 now_ns = bpf_ktime_get_ns();
	struct stamp answer;

	if (!path)
		return drop(skb, NO_PATH);
	if (bpf_skb_load_bytes(skb, stamp_at(p), &answer, sizeof(answer)))
		return drop(skb, MALFORMED);
	__u64 asked_ns = from_ntp(answer.sender_timestamp);
	if (is_padded(p))
		return drop(skb, padded_heard(path, skb->ifindex, &answer) ? PROBE_HEARD : MALFORMED);
	if (now_ns - asked_ns > PROBE_MEMORY_NS || !path_heard(path, skb->ifindex, asked_ns, now_ns))
		return drop(skb, MALFORMED);
	return drop(skb, PROBE_HEARD);
}

/* A probe that came out of a tunnel. */
static __always_inline int probe_arrives(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	return is_question(p) ? probe_reflect(skb, p) : probe_heard(skb, p, place);
}

/* A probe on its way into a tunnel: note it, and give it the time, which its sender could only guess. */
static __noinline int probe_leaves(struct __sk_buff *skb, const struct packet *p, __u32 place)
{
	struct path *path = path_over(place, skb->ifindex);
	__u64 now_ns = bpf_ktime_get_ns();
	struct stamp old, new;

	if (!path)
		return drop(skb, NO_PATH);
	if (bpf_skb_load_bytes(skb, stamp_at(p), &old, sizeof(old)))
		return drop(skb, MALFORMED);
	new = old;
	to_ntp(now_ns, new.timestamp);
	new.error_estimate = bpf_htons(UNSYNCHRONISED);
	if (!rewrite(skb, p, &old, &new))
		return drop(skb, MALFORMED);
	if (!is_padded(p))
		path_asked(path, skb->ifindex, now_ns);
	return TC_ACT_UNSPEC;
}

#endif
