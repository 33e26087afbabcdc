/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What probes tell about a path: stamp.h sends and hears them, path.h draws the
 * conclusion for each packet.
 */
#ifndef MESHFABRIC_LIVENESS_H
#define MESHFABRIC_LIVENESS_H

#include "path.h"

enum peak_policy {
	PEAK_DECAY_SHIFT = 5, /* a peak loses a 32nd with each answer: half is gone after 22 */
};

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

/* `sent_ns` is written first: who clears `unanswered_ns` looks at it (path_heard). */
static __always_inline void path_asked(struct path *path, __u32 ifindex, __u64 now_ns)
{
	if (path->ifindex != ifindex) {
		__builtin_memset(path, 0, sizeof(*path));
		path->ifindex = ifindex;
	}
	*(volatile __u64 *)&path->sent_ns = now_ns;
	path->sent++;
	if (!path->unanswered_ns)
		path->unanswered_ns = now_ns;
}

static __always_inline void note_rtt(struct path *path, __u64 rtt_ns)
{
	__u32 rtt_us = rtt_ns / NS_PER_US;
	__u32 faded = path->rtt_peak_us - (path->rtt_peak_us >> PEAK_DECAY_SHIFT);

	path->rtt_us = rtt_us;
	path->rtt_peak_us = rtt_us > faded ? rtt_us : faded;
}

/* Later probes may still be under way: the next one left about an interval after the answered one.
 * An answer that was overtaken proves nothing new. */
static __always_inline void advance_unanswered(struct path *path, __u64 unanswered_ns, __u64 asked_ns)
{
	__u64 next_ns = asked_ns + probe_interval_ns;

	if (asked_ns >= *(volatile __u64 *)&path->sent_ns)
		path->unanswered_ns = 0;
	else if (unanswered_ns && next_ns > unanswered_ns)
		path->unanswered_ns = next_ns;
}

/* The answer to the probe of `asked_ns` arrived; false if we never asked that. */
static __always_inline bool path_heard(struct path *path, __u32 ifindex, __u64 asked_ns, __u64 now_ns)
{
	__u64 unanswered_ns = *(volatile __u64 *)&path->unanswered_ns;

	if (path->ifindex != ifindex || asked_ns > path->sent_ns)
		return false;
	if (is_given_up(path, unanswered_ns, now_ns)) {
		path->flaps += path->streak >= ANSWERS_TO_TRUST;
		path->streak = 0;
	}
	path->streak += path->streak < __UINT32_MAX__;
	path->heard++;
	path->heard_ns = now_ns;
	note_rtt(path, now_ns - asked_ns);
	advance_unanswered(path, unanswered_ns, asked_ns);
	return true;
}

#endif
