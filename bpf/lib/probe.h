/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Which packets are probes: stamp.h owns what becomes of them.
 */
#ifndef MESHFABRIC_PROBE_H
#define MESHFABRIC_PROBE_H

#include "address.h"

static __always_inline bool is_question(const struct packet *p)
{
	return port_of(p, destination_end(p)) == bpf_htons(STAMP_PORT) &&
	       port_of(p, source_end(p)) == bpf_htons(PROBE_PORT);
}

/* Either direction: UDP between the two ports of a probe. */
static __always_inline bool is_probe(const struct packet *p)
{
	return p->key.protocol == IPPROTO_UDP && p->fragment == NO_FRAGMENT &&
	       ((p->key.port[0] == bpf_htons(STAMP_PORT) && p->key.port[1] == bpf_htons(PROBE_PORT)) ||
		(p->key.port[1] == bpf_htons(STAMP_PORT) && p->key.port[0] == bpf_htons(PROBE_PORT)));
}

#endif
