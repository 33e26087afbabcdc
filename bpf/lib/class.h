/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * How a packet tells its class across a tunnel's encryption: the kernel's WireGuard
 * keeps skb->hash, and so does VXLAN.
 *
 *      bits 31-28  the class, which leads to the transmit queue too
 *      bits 27-10  that it was us who wrote it
 *      bits  9-0   of the flow's own hash, by which fq tells flows apart
 *
 * It is to be the last edit: what changes the packet may forget its hash. What
 * WireGuard sends by itself (handshakes, keepalives) has none, or that of nobody.
 */
#ifndef MESHFABRIC_CLASS_H
#define MESHFABRIC_CLASS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "settings.h"
#include "types.h"

enum class_hash {
	CLASS_SHIFT = 28,
	MAGIC_SHIFT = 10,
	OUR_MAGIC = 0x2d6f6, /* any number that is not of a pattern, of 18 bits */
	MAGIC_MASK = (1 << (CLASS_SHIFT - MAGIC_SHIFT)) - 1,
	FLOW_MASK = (1 << MAGIC_SHIFT) - 1,
};

/* Does any tunnel keep it? */
static __always_inline bool is_class_heard(void)
{
	return wg_keeps_hash || plain_slots;
}

static __always_inline void tell_class(struct __sk_buff *skb, __u32 class, __u64 flow_hash)
{
	if (is_class_heard())
		bpf_set_hash(skb, class << CLASS_SHIFT | OUR_MAGIC << MAGIC_SHIFT | (flow_hash & FLOW_MASK));
}

static __always_inline bool is_class_told(__u32 hash)
{
	return (hash >> MAGIC_SHIFT & MAGIC_MASK) == OUR_MAGIC;
}

static __always_inline __u32 class_told(__u32 hash)
{
	return hash >> CLASS_SHIFT;
}

#endif
