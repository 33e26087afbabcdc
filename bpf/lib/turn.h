/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Tells the agent when a path gets better or worse: for people only, no packet's
 * choice depends on it. It is looked at as probes leave and as answers come, never
 * for a packet; the moments told are those at which a packet's choice changes.
 */
#ifndef MESHFABRIC_TURN_H
#define MESHFABRIC_TURN_H

#include "path.h"

static __always_inline void tell_turn(__u32 place, __u32 ifindex, __u32 grade, __u64 at_ns, __u64 heard_ns)
{
	struct turn *told = bpf_ringbuf_reserve(&turns, sizeof(*told), 0);

	if (!told)
		return;
	told->at_ns = at_ns; /* one by one: the stack has no room for a copy */
	told->heard_ns = heard_ns;
	told->place = place;
	told->ifindex = ifindex;
	told->grade = grade;
	told->pad = 0;
	bpf_ringbuf_submit(told, 0);
}

/* Was it given up since the last probe left, when somebody last looked? One probe less was open then. */
static __always_inline bool falls_silent(const struct path *path, __u64 now_ns)
{
	__u64 unanswered_ns = path->unanswered_ns;

	if (path->streak < ANSWERS_TO_TRUST || !is_given_up(path, unanswered_ns, now_ns))
		return false;
	return open_probes(path) <= probes_to_give_up(path) ||
	       (__s64)(path->sent_ns - unanswered_ns) <= patience_ns(path);
}

/* Both must be: patience has run out, and the last probe that it takes has left. */
static __always_inline __u64 given_up_ns(const struct path *path)
{
	__u64 patient_ns = path->unanswered_ns + patience_ns(path);

	return path->sent_ns > patient_ns ? path->sent_ns : patient_ns;
}

/* Before a probe leaves, or an answer is taken in. */
static __noinline void look_for_silence(const struct path *path, __u32 place, __u32 ifindex, __u64 now_ns)
{
	if (path->ifindex == ifindex && falls_silent(path, now_ns))
		tell_turn(place, ifindex, SILENT, given_up_ns(path), path->heard_ns);
}

static __always_inline __u32 grade_of(const struct path *path, __u64 now_ns)
{
	bool is_silent = path->streak < ANSWERS_TO_TRUST || is_given_up(path, path->unanswered_ns, now_ns);

	return is_silent ? SILENT : path->faults;
}

/* After an answer was taken in; `before` it was so. That it fell silent was told by then. */
static __always_inline void look_for_change(const struct path *path, __u32 before, __u32 place, __u32 ifindex)
{
	__u32 now = grade_of(path, path->heard_ns);

	if (now != before)
		tell_turn(place, ifindex, now, path->heard_ns, path->heard_ns);
}

#endif
