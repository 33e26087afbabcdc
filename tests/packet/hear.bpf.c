// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Lets a probe leave, or an answer arrive, at a time that the test makes up. The
 * packet says which; `skb->mark` is the path's place in `paths`.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "liveness.h"

enum what { ASKED, HEARD };

struct event {
	__u32 what;
	__u32 ifindex;
	struct hearing hearing; /* ASKED: when is asked_ns */
};

SEC("tc")
int happens(struct __sk_buff *skb)
{
	__u32 at = skb->mark;
	struct path *path = bpf_map_lookup_elem(&paths, &at);
	struct event event;

	if (!path || bpf_skb_load_bytes(skb, 0, &event, sizeof(event)))
		return -1;
	if (event.what == ASKED)
		return path_asked(path, event.ifindex, event.hearing.asked_ns);
	return path_heard(path, event.ifindex, &event.hearing);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
