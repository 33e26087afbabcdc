/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Which tunnel to a node? The first one of the agent's order that works well; where
 * none does, of those that work the first with the least faults.
 *
 * Each tunnel is probed. A path is given up when several probes in a row are
 * without an answer and the oldest of them is older than our patience. It is not
 * the age of the last answer that counts, which grows with every pause of the
 * prober's, nor the age of one probe alone, which may have got lost. Patience
 * grows with the round-trip times seen, so that a queue that fills up is not
 * taken for a cut.
 *
 *      never heard --3 answers--> up --patience runs out--> down --an answer--> 2 more --> up, held
 *
 * A path that is up may still lose too many probes, or take too long for them. It is
 * left for one that does not, and whatever a path was left for, it is held for a
 * while: that bounds how often traffic moves (quality.h).
 *
 * Where flows are shared among paths of the same cost, each takes the one that its
 * hash leads to, as long as that is sound; a connection that suffered there takes the
 * one that it was moved to (suffer.h).
 *
 * A path stays at its position when others come, go or are preferred, as while
 * keys are rotated; their order is kept apart, in one number. So nothing that is
 * known of a path is lost.
 *
 * liveness.h keeps the states.
 */
#ifndef MESHFABRIC_PATH_H
#define MESHFABRIC_PATH_H

#include <stdbool.h>
#include "hash.h"
#include "maps.h"
#include "settings.h"

enum path_policy {
	ANSWERS_TO_TRUST = 3, /* in a row */
	PROBES_TO_GIVE_UP = 3, /* in a row, without an answer */
	SHARE_TRIES = 4, /* until the order counts */
	INTERVALS_OF_PATIENCE = 2,
	PEAKS_OF_PATIENCE = 2,
};

#define NS_PER_US 1000ULL

static __always_inline struct path *path_at(__u32 node_index, __u32 index)
{
	__u32 at = node_index * MAX_PATHS + index;

	return bpf_map_lookup_elem(&paths, &at);
}

/* In a quiet tunnel some intervals, and until the last probe of those could be answered; in one with queues as
 * long as an answer may take when they double. */
static __always_inline __s64 patience_ns(const struct path *path)
{
	__u64 peak_ns = NS_PER_US * path->rtt_peak_us;
	__u64 quiet_ns = INTERVALS_OF_PATIENCE * probe_interval_ns +
			 (peak_ns > probe_grace_ns ? peak_ns : probe_grace_ns);
	__u64 queueing_ns = probe_interval_ns + PEAKS_OF_PATIENCE * peak_ns;

	return quiet_ns > queueing_ns ? quiet_ns : queueing_ns;
}

/* How many probes left since the last one that was answered. */
static __always_inline __u32 open_probes(const struct path *path)
{
	return (__u32)path->sent - path->answered;
}

/* Where many get lost, several in a row are no cut yet. */
static __always_inline __u32 probes_to_give_up(const struct path *path)
{
	return PROBES_TO_GIVE_UP + path->leniency;
}

/* Signed: the other CPU's probe may have left after we looked at the clock. */
static __always_inline bool is_given_up(const struct path *path, __u64 unanswered_ns, __u64 now_ns)
{
	return unanswered_ns && open_probes(path) >= probes_to_give_up(path) &&
	       (__s64)(now_ns - unanswered_ns) > patience_ns(path);
}

/* The precise clock is read only while several answers are due, a small share of the time. */
static __always_inline bool is_usable(const struct path *path, __u32 ifindex)
{
	__u64 unanswered_ns = *(const volatile __u64 *)&path->unanswered_ns;

	if (!ifindex || path->ifindex != ifindex || path->streak < ANSWERS_TO_TRUST)
		return false;
	return !unanswered_ns || open_probes(path) < probes_to_give_up(path) ||
	       !is_given_up(path, unanswered_ns, bpf_ktime_get_ns());
}

/* A tunnel's device and the MTU there, in one number: a position would be known to the verifier, which then
 * follows what comes after for each. 0: there is none. */
static __always_inline __u64 tunnel_at(const struct node *node, __u32 position)
{
	return (__u64)node->mtu[position] << 32 | node->ifindex[position];
}

static __always_inline __u32 device_of(__u64 tunnel)
{
	return tunnel;
}

static __always_inline __u32 mtu_of(__u64 tunnel)
{
	return tunnel >> 32;
}

/* The one at a position if it works and has no fault, else 0. */
static __always_inline __u64 sound_at(const struct node *node, __u32 node_index, __u32 position)
{
	struct path *path = path_at(node_index, position);

	return path && !path->faults && is_usable(path, node->ifindex[position]) ? tunnel_at(node, position)
										 : 0;
}

static __always_inline __u32 grade_at(const struct node *node, __u32 node_index, __u32 position)
{
	struct path *path = path_at(node_index, position);

	if (!node->ifindex[position])
		return NOWHERE;
	return path && is_usable(path, node->ifindex[position]) ? path->faults % SILENT : SILENT;
}

/* Where the path stands that is next after `rank` better ones; for the verifier a number below eight,
 * without a branch. */
static __always_inline __u32 position_of(const struct node *node, __u32 rank)
{
	return (node->order >> rank * BITS_OF_A_RANK) % MAX_PATHS;
}

/* The first of those with the least faults; the first of all when none works. */
static __noinline __u64 choose_other(const struct node *node, __u32 node_index)
{
	__u32 least = NOWHERE;
	__u64 tunnel = 0;

	for (__u32 rank = 0; rank < MAX_PATHS; rank++) {
		__u32 position = position_of(node, rank), grade = grade_at(node, node_index, position);
		if (grade >= least)
			continue;
		least = grade;
		tunnel = tunnel_at(node, position);
	}
	return tunnel;
}

/* Where the flow's connection is watched; of another one, if that has the place now. */
static __always_inline struct watched *watched_at(__u64 hash)
{
	__u32 at = hash & (WATCHED_FLOWS - 1);

	return bpf_map_lookup_elem(&watched, &at);
}

static __always_inline __u32 watched_check(__u64 hash)
{
	return hash >> 32;
}

/* The one that a connection was moved to, if it is sound and shared yet. */
static __always_inline __u64 moved_to(const struct node *node, __u32 node_index, __u64 hash)
{
	const struct watched *watched = watched_at(hash);

	if (!watched || !watched->position || watched->check != watched_check(hash))
		return 0;
	__u32 position = (watched->position - 1) % MAX_PATHS;
	return node->shared >> position & 1 ? sound_at(node, node_index, position) : 0;
}

/* The position that a hash leads to, if the path there is sound, else another that further bits lead to: so
 * only the flows of a path that is not sound move, and to all others alike. MAX_PATHS: none was met in a few
 * tries. */
static __always_inline __u32 led_to(const struct node *node, __u32 node_index, __u64 hash)
{
	for (__u32 i = 0; i < SHARE_TRIES; i++) {
		__u32 position = node->share[hash % SHARES] % MAX_PATHS;
		if (sound_at(node, node_index, position))
			return position;
		hash /= SHARES;
	}
	return MAX_PATHS;
}

static __noinline __u64 choose_shared(const struct node *node, __u32 node_index, const struct flow_key *flow)
{
	__u64 hash = hash_key((const __u64 *)flow), moved = moved_to(node, node_index, hash);

	if (moved)
		return moved;
	__u32 position = led_to(node, node_index, hash);
	return position < MAX_PATHS ? tunnel_at(node, position) : 0;
}

/* The preferred one, nearly always. The first position, where it mostly stands, is a constant: as a variable
 * it would double the verifier's work. */
static __always_inline __u64 choose_tunnel(const struct node *node, __u32 node_index,
					   const struct flow_key *flow)
{
	__u64 shared = node->shared ? choose_shared(node, node_index, flow) : 0;

	if (shared)
		return shared;
	__u64 preferred = position_of(node, 0) ? 0 : sound_at(node, node_index, 0);

	return preferred ? preferred : choose_other(node, node_index);
}

#endif
