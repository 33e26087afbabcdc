/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * How good is a path that answers? Judged with each answer, so that a packet finds
 * it said (path.h).
 *
 *      sound --7 of the last 64 probes lost-------------------> lossy, held
 *            --16 round trips in a row over the limit---------> slow, held
 *            --given up, and now it answers-------------------> held
 *      lossy --of the last 64 no more than a quarter of that--> not lossy
 *      slow  --64 in a row within three quarters of the limit-> not slow
 *      held  --its time is over-------------------------------> not held
 *
 * Whatever makes a path worse is a fall, and who falls is held. The first time that
 * is a second; who falls again before he stood for a minute is held for twice as
 * long as the last time, up to a bound. A held path is taken only where all others
 * are held or silent, and so traffic cannot go to and fro faster than holds end:
 * with 32 s at most, a path is left 6 times in the worst minute.
 *
 * The limits are far from what comes by chance. With 1% of losses 7 of 64 meet once
 * in two million probes; delays count when even the shortest of 16 is too long.
 */
#ifndef MESHFABRIC_QUALITY_H
#define MESHFABRIC_QUALITY_H

#include "path.h"

enum quality_policy {
	PROBES_SEEN = 64, /* bits of path.missing and path.late */
	ANSWERS_TO_BE_SLOW = 16, /* in a row */
	ANSWERS_AT_ONCE = 2, /* within an interval */
	LOSSES_OF_A_CUT = 1,
	LOSSES_TO_RETURN_SHIFT = 2, /* a quarter of the limit */
	RTT_TO_RETURN_SHIFT = 2, /* the limit less its quarter */
	LOSSES_PER_LENIENCY =
		3, /* at any loss up to a half so many more in a row come once in 10,000 probes */
};

#define ALL_BAD (~0ULL)
#define FIRST_HOLD_NS 1000000000ULL
#define FORGIVEN_NS (60 * FIRST_HOLD_NS) /* after the last hold */

/* Bits that are shifted out on the left are forgotten; the kernel's shift takes only the low six bits. */
static __always_inline __u64 shifted(__u64 bits, __u32 by)
{
	return by < PROBES_SEEN ? bits << by : 0;
}

/* The answer to a probe that is `probes` later than the last one before it that was answered. However long the
 * path was given up, that counts as one loss: it is held for it, and a path that is cut now and then is not lossy. */
static __always_inline void note_missing(struct path *path, __u32 probes, bool given_up)
{
	if (given_up && probes > LOSSES_OF_A_CUT)
		probes = LOSSES_OF_A_CUT + 1;
	__u64 missed = shifted(1, probes) - 1; /* this one and those between */

	path->missing = shifted(path->missing, probes) | (missed & ~1ULL);
}

/* It was overtaken: `probes` later ones were answered before it. */
static __always_inline void note_found(struct path *path, __u32 probes)
{
	path->missing &= ~shifted(1, probes);
}

/* A slow path has to be clearly faster before its answers count as quick again. Those that come late all at once
 * were held up together, by a handshake of WireGuard's most likely: they count as one. */
static __always_inline void note_late_answer(struct path *path, __u32 rtt_us, __u64 since_ns)
{
	__u32 limit_us = rtt_limit_us;

	if (path->faults & SLOW)
		limit_us -= limit_us >> RTT_TO_RETURN_SHIFT;
	bool late = rtt_limit_us && rtt_us > limit_us;
	if (!late || since_ns >= probe_interval_ns / ANSWERS_AT_ONCE)
		path->late = path->late << 1 | late;
}

static __always_inline __u64 next_hold_ns(const struct path *path, __u64 now_ns)
{
	__s64 stood_ns = now_ns - path->held_until_ns;

	if (path->faults & HELD)
		return path->hold_ns; /* who is held falls no deeper: his time begins anew */
	if (!path->hold_ns || stood_ns > (__s64)FORGIVEN_NS)
		return FIRST_HOLD_NS;
	return 2 * path->hold_ns;
}

static __always_inline void fall(struct path *path, __u64 now_ns)
{
	__u64 hold_ns = next_hold_ns(path, now_ns);

	path->hold_ns = hold_ns < longest_hold_ns ? hold_ns : longest_hold_ns;
	path->held_until_ns = now_ns + path->hold_ns;
	path->faults |= HELD;
	path->falls++;
}

static __always_inline __u32 judged_losses(const struct path *path)
{
	__u32 losses = __builtin_popcountll(path->missing);

	if (path->faults & LOSSY)
		return loss_limit && losses > loss_limit >> LOSSES_TO_RETURN_SHIFT ? LOSSY : 0;
	return loss_limit && losses >= loss_limit ? LOSSY : 0;
}

static __always_inline __u32 judged_delay(const struct path *path)
{
	__u64 newest = (1ULL << ANSWERS_TO_BE_SLOW) - 1;

	if (path->faults & SLOW)
		return path->late ? SLOW : 0;
	return (path->late & newest) == newest ? SLOW : 0;
}

/* What was slow and is not any more is waited for no longer than others. */
static __always_inline void forget_peak(struct path *path)
{
	path->caution = 0;
	path->rtt_peak_us = path->rtt_us;
}

/* With each answer, once its number and its time are noted. */
static __always_inline void judge_path(struct path *path, __u64 now_ns)
{
	__u32 found = judged_losses(path) | judged_delay(path), worse = found & ~path->faults;

	if (path->faults & ~found & SLOW)
		forget_peak(path);
	path->faults = found | (path->faults & HELD);
	path->leniency = found & LOSSY ? __builtin_popcountll(path->missing) / LOSSES_PER_LENIENCY : 0;
	if (worse & SLOW)
		path->late = ALL_BAD;
	if (worse)
		fall(path, now_ns);
	if (path->faults & HELD && (__s64)(now_ns - path->held_until_ns) >= 0)
		path->faults &= ~HELD;
}

#endif
