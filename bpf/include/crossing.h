/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What is worked out about one packet between a workload and the world. It is kept
 * beside the stack, of which all functions that call each other share 512 bytes.
 */
#ifndef MESHFABRIC_CROSSING_H
#define MESHFABRIC_CROSSING_H

#include <stdbool.h>
#include <linux/bpf.h>
#include "types.h"

/* What the world takes for the workload's end of a flow. */
struct guise {
	struct addr addr;
	__be16 port; /* ICMP echo: the identifier */
	__u16 pad[3];
};

/* The search for a port. */
struct search {
	struct nat wanted;
	struct guise guise;
	__u32 start, step;
	bool found;
};

/* An end of a packet, as it is and as it is to be. */
struct move {
	struct addr from, to;
	__be16 port_from, port_to;
	bool destination; /* which end it is */
};

struct way_out {
	__u32 ifindex;
	__u32 mtu; /* where the packet was too big for it */
	struct addr source; /* the node's, all zero: none of that family */
	struct bpf_redir_neigh next;
};

struct crossing {
	struct bpf_fib_lookup route;
	struct way_out out;
	struct search search;
	struct move move;
};

#endif
