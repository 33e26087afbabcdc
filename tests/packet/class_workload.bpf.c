// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * from_workload, with the hash that it leaves behind put where a test run shows it.
 */
#include "../../bpf/workload.bpf.c"

enum { TOLD_AT = 4 }; /* in cb */

SEC("tc")
int tells_class(struct __sk_buff *skb)
{
	int verdict = leave_workload(skb, RECEIVING);

	skb->cb[TOLD_AT] = skb->hash;
	return verdict;
}
