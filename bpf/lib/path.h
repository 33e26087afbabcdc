/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Which tunnel to a node? The first one of the agent's order that works.
 *
 * Each tunnel is probed. A path is given up when several probes in a row are
 * without an answer and the oldest of them is older than our patience. It is not
 * the age of the last answer that counts, which grows with every pause of the
 * prober's, nor the age of one probe alone, which may have got lost. Patience
 * grows with the round-trip times seen, so that a queue that fills up is not
 * taken for a cut.
 *
 *      never heard --3 answers--> up --patience runs out--> down --an answer--> 2 more --> up
 *
 * liveness.h keeps the states.
 */
#ifndef MESHFABRIC_PATH_H
#define MESHFABRIC_PATH_H

#include <stdbool.h>
#include "maps.h"
#include "settings.h"

enum path_policy {
	ANSWERS_TO_TRUST = 3, /* in a row */
	PROBES_TO_GIVE_UP = 3, /* in a row, without an answer */
	INTERVALS_OF_PATIENCE = 2,
	PEAKS_OF_PATIENCE = 2,
};

#define NS_PER_US 1000ULL

static __always_inline struct path *path_at(__u32 node_index, __u32 index)
{
	__u32 at = node_index * MAX_PATHS + index;

	return bpf_map_lookup_elem(&paths, &at);
}

/* In a quiet tunnel some intervals; in one with queues as long as an answer may take when they double. */
static __always_inline __s64 patience_ns(const struct path *path)
{
	__u64 quiet_ns = INTERVALS_OF_PATIENCE * probe_interval_ns + probe_grace_ns;
	__u64 queueing_ns = probe_interval_ns + PEAKS_OF_PATIENCE * NS_PER_US * path->rtt_peak_us;

	return quiet_ns > queueing_ns ? quiet_ns : queueing_ns;
}

/* How many probes left since the last one that was answered. */
static __always_inline __u32 open_probes(const struct path *path)
{
	return (__u32)path->sent - path->answered;
}

/* Signed: the other CPU's probe may have left after we looked at the clock. */
static __always_inline bool is_given_up(const struct path *path, __u64 unanswered_ns, __u64 now_ns)
{
	return unanswered_ns && open_probes(path) >= PROBES_TO_GIVE_UP &&
	       (__s64)(now_ns - unanswered_ns) > patience_ns(path);
}

/* The precise clock is read only while several answers are due, a small share of the time. */
static __always_inline bool is_usable(const struct path *path, __u32 ifindex)
{
	__u64 unanswered_ns = *(const volatile __u64 *)&path->unanswered_ns;

	if (path->ifindex != ifindex || path->streak < ANSWERS_TO_TRUST)
		return false;
	return !unanswered_ns || open_probes(path) < PROBES_TO_GIVE_UP ||
	       !is_given_up(path, unanswered_ns, bpf_ktime_get_ns());
}

/* The first usable device after the preferred one; the preferred one when there is none. */
static __noinline __u32 choose_other(const struct node *node, __u32 node_index)
{
	for (__u32 i = 1; i < MAX_PATHS; i++) {
		if (i >= node->n_paths)
			break;
		struct path *path = path_at(node_index, i);
		if (path && is_usable(path, node->ifindex[i]))
			return node->ifindex[i];
	}
	return node->ifindex[0];
}

static __always_inline __u32 choose_path(const struct node *node, __u32 node_index)
{
	struct path *preferred = path_at(node_index, 0);

	if (preferred && is_usable(preferred, node->ifindex[0]))
		return node->ifindex[0];
	return choose_other(node, node_index);
}

#endif
