/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What a probe says, and how one begins. Times are of the monotonic clock in NTP's
 * 64-bit format (RFC 8762, 4.2.1), the error estimate says that it is synchronised
 * with nobody's (RFC 4656, 4.1.2).
 */
#ifndef MESHFABRIC_QUESTION_H
#define MESHFABRIC_QUESTION_H

#include "liveness.h"

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
};

#define NTP_NS_PER_S 1000000000ULL

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

static __always_inline void write_time(struct stamp *stamp, __u64 now_ns)
{
	to_ntp(now_ns, stamp->timestamp);
	stamp->error_estimate = bpf_htons(UNSYNCHRONISED);
}

/* A new probe: its number and its time (RFC 8762, 4.2.1). */
static __always_inline void write_question(struct stamp *question, struct path *path, __u32 ifindex)
{
	__u64 now_ns = bpf_ktime_get_ns();
	__u32 sequence = path_asked(path, ifindex, now_ns);

	question->sequence = bpf_htonl(sequence);
	write_time(question, now_ns);
}

#endif
