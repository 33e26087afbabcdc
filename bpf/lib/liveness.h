/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What probes tell about a path: stamp.h sends and hears them, quality.h judges by
 * them, path.h draws the conclusion for each packet.
 */
#ifndef MESHFABRIC_LIVENESS_H
#define MESHFABRIC_LIVENESS_H

#include "quality.h"

enum liveness_policy {
	PEAK_DECAY_SHIFT = 5, /* a peak loses a 32nd with each answer: half is gone after 22 */
	ANSWERS_OF_CAUTION = 1024, /* for which a peak that was taken for a cut is kept: 10 s at 10 ms */
	JITTER_SHIFT = 4, /* a change counts a 16th (RFC 3550, 6.4.1) */
};

#define LONGEST_CHANGE_NS 1000000000LL /* of a transit time: beyond that another clock began */

/* What an answer says of the probe, of itself and of the ways between. */
struct hearing {
	__u64 asked_ns, heard_ns; /* by our clock */
	__u64 out_ns, back_ns; /* transit times by two clocks */
	__u32 question, answer; /* sequence numbers */
};

/* A probe leaves; its sequence number. `sent_ns` is written first: who clears `unanswered_ns` looks at it
 * (path_heard). */
static __always_inline __u32 path_asked(struct path *path, __u32 ifindex, __u64 now_ns)
{
	if (path->ifindex != ifindex)
		*path = (struct path){.ifindex = ifindex, .traffic_ns = path->traffic_ns};
	*(volatile __u64 *)&path->sent_ns = now_ns;
	if (!path->unanswered_ns)
		path->unanswered_ns = now_ns;
	return path->sent++;
}

static __always_inline void note_rtt(struct path *path, __u64 rtt_ns)
{
	__u32 rtt_us = rtt_ns / NS_PER_US;
	__u32 faded = path->rtt_peak_us - (path->caution ? 0 : path->rtt_peak_us >> PEAK_DECAY_SHIFT);

	path->caution -= path->caution > 0;
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

/* RFC 3550, A.8, on the times of one way: the difference of two clocks drops out of a change. */
static __always_inline void note_transit(__u64 transit_ns, __u64 *last_ns, __u32 *jitter_ns)
{
	__s64 change_ns = transit_ns - *last_ns;

	if (change_ns < 0)
		change_ns = -change_ns;
	if (*last_ns && change_ns < LONGEST_CHANGE_NS)
		*jitter_ns += (change_ns - (__s64)*jitter_ns) >> JITTER_SHIFT;
	*last_ns = transit_ns;
}

/* It was overtaken, and taken for lost on the way where that happened. */
static __always_inline void note_late(struct path *path, const struct hearing *h, __s32 answers)
{
	note_found(path, path->heard_question - h->question);
	if (answers > 0) {
		path->lost_out -= path->lost_out > 0;
		path->heard_answer = h->answer;
	} else if (answers < 0) {
		path->lost_back -= path->lost_back > 0;
	}
}

/* The far node numbers its answers (RFC 8762, 4.3): a gap in their numbers was lost on the way back, a gap in
 * those of the probes that is not in theirs on the way out. What began to count anew is only taken note of. */
static __always_inline void note_sequence(struct path *path, const struct hearing *h, bool given_up)
{
	__s32 probes = h->question - path->heard_question, answers = h->answer - path->heard_answer;

	if (path->heard && probes <= 0)
		return note_late(path, h, probes ? answers : 0);
	if (path->heard)
		note_missing(path, probes, given_up);
	if (path->heard && answers > 0 && answers <= probes) {
		path->lost_out += probes - answers;
		path->lost_back += answers - 1;
	}
	path->heard_question = h->question;
	path->heard_answer = h->answer;
	path->answered = h->question + 1;
}

/* Another build's probes had numbers of their own. */
static __always_inline bool was_asked(const struct path *path, const struct hearing *h)
{
	return (__s32)((__u32)path->sent - h->question) > 0;
}

/* From a path that was given up. If this answer only took longer than we waited, then nothing was cut: a
 * machine that is too busy to encrypt, say. Who was wrong once is more patient for a while. */
static __always_inline void come_back(struct path *path, const struct hearing *h)
{
	if ((__s64)(h->heard_ns - h->asked_ns) > patience_ns(path))
		path->caution = ANSWERS_OF_CAUTION;
	if (path->streak >= ANSWERS_TO_TRUST || path->faults & HELD)
		fall(path, h->heard_ns);
	path->flaps += path->streak >= ANSWERS_TO_TRUST;
	path->streak = 0;
}

/* An answer arrived; false if we never asked that. */
static __always_inline bool path_heard(struct path *path, __u32 ifindex, const struct hearing *h)
{
	__u64 unanswered_ns = *(volatile __u64 *)&path->unanswered_ns;

	if (path->ifindex != ifindex || h->asked_ns > path->sent_ns)
		return false;
	bool given_up = is_given_up(path, unanswered_ns, h->heard_ns);
	if (was_asked(path, h))
		note_sequence(path, h, given_up);
	if (given_up)
		come_back(path, h);
	path->streak += path->streak < __UINT32_MAX__;
	path->heard++;
	__u64 since_ns = h->heard_ns - path->heard_ns;
	path->heard_ns = h->heard_ns;
	note_rtt(path, h->heard_ns - h->asked_ns);
	note_transit(h->out_ns, &path->transit_out_ns, &path->jitter_out_ns);
	note_transit(h->back_ns, &path->transit_back_ns, &path->jitter_back_ns);
	advance_unanswered(path, unanswered_ns, h->asked_ns);
	note_late_answer(path, path->rtt_us, since_ns);
	judge_path(path, h->heard_ns);
	return true;
}

#endif
