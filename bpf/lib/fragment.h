/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Only the first fragment names its ports; those that follow are told by it
 * (parse_odd.h reads what is written here). A fragment that overtakes its first
 * one is dropped.
 */
#ifndef MESHFABRIC_FRAGMENT_H
#define MESHFABRIC_FRAGMENT_H

#include "address.h"

/* Only for packets that were admitted: a spoofed one must not speak for others. */
static __noinline bool remember_ports(const struct packet *p)
{
	struct fragment_key key = {
		.source = addr_of(p, source_end(p)),
		.destination = addr_of(p, destination_end(p)),
		.id = p->fragment_id,
		.protocol = p->version == 4 ? p->key.protocol : 0,
	};
	struct fragment first = {
		.port = {port_of(p, source_end(p)), port_of(p, destination_end(p))},
		.protocol = p->key.protocol,
		.role = p->role,
	};

	bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
	return true;
}

static __always_inline void note_first_fragment(const struct packet *p)
{
	if (p->fragment == FIRST_FRAGMENT)
		remember_ports(p);
}

#endif
