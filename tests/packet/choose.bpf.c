// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Says which tunnel the datapath would take: a test-run shows that a packet is
 * redirected, but not where to. `skb->mark` is the place of the node, the packet is
 * the flow's key; the verdict is the ifindex.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "path.h"

SEC("tc")
int chosen(struct __sk_buff *skb)
{
	__u32 node_index = skb->mark - FIRST_NODE;
	struct node *node = bpf_map_lookup_elem(&nodes, &node_index);
	struct flow_key flow;

	if (!node || bpf_skb_load_bytes(skb, 0, &flow, sizeof(flow)))
		return 0;
	return device_of(choose_tunnel(node, node_index, &flow));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
