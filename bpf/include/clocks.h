/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The clocks that an uplink's packets leave by; lib/qos.h has their rules.
 */
#ifndef MESHFABRIC_CLOCKS_H
#define MESHFABRIC_CLOCKS_H

#include <linux/bpf.h>
#include "types.h"

/* Each says from when on, in ns of the monotonic clock. What is past means: at once. */
struct clocks {
	__u64 link[PRIORITIES]; /* the link is free for this priority */
	__u64 guaranteed[CLASSES]; /* the class may go by its guarantee */
	__u64 most[CLASSES]; /* it stays within its most */
	struct bpf_spin_lock lock;
	__u32 pad;
};

#endif
