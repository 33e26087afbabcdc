/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * One number for a flow, the same in both directions.
 */
#ifndef MESHFABRIC_HASH_H
#define MESHFABRIC_HASH_H

#include <linux/types.h>

/* Odd, with half of the bits set: from the golden ratio, and from MurmurHash3's finaliser. */
#define SPREAD_1 0x9e3779b97f4a7c15ULL
#define SPREAD_2 0xff51afd7ed558ccdULL

static __always_inline __u64 spread(__u64 word)
{
	word *= SPREAD_1;
	return word ^ word >> 32;
}

/* Of a struct flow_key, as five words. Who finds flows that collide gains nothing: in `recent` the whole key is
 * compared, and of a share (path.h) they would only have more. */
static __always_inline __u64 hash_key(const __u64 *key)
{
	__u64 low = spread(key[1] + spread(key[0]));
	__u64 high = spread(key[3] + spread(key[2]));
	__u64 hash = (low ^ high * SPREAD_2) + key[4];

	hash = (hash ^ hash >> 29) * SPREAD_2;
	return hash ^ hash >> 32;
}

#endif
