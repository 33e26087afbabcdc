/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Who may speak with the world, and under whose address: an exposed one under its
 * own, any other under the node's.
 */
#ifndef MESHFABRIC_EXPOSED_H
#define MESHFABRIC_EXPOSED_H

#include "address.h"

static __always_inline bool is_exposed(const struct addr *a)
{
	__u32 only = 0;
	struct fabric *f = bpf_map_lookup_elem(&fabric, &only);

	for (__u32 i = 0; f && i < MAX_EXPOSED && i < f->n_exposed; i++) {
		if (lies_in(a, &f->exposed[i]))
			return true;
	}
	return false;
}

#endif
