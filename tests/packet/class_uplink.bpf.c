// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * to_uplink for a packet that has a hash, at a time that the test says: a test run
 * can tell neither to a program, and so they come in the last word of cb and as hwtstamp.
 * And from_uplink, with the hash that it leaves behind there.
 */
#include "class.h"
#include "outer.h"
#include "verdict.h"

#define bpf_ktime_get_ns() (skb->hwtstamp)
#include "qos.h"
#undef bpf_ktime_get_ns

#include "../../bpf/uplink.bpf.c"

enum { HASH_AT = 4 }; /* in cb */

SEC("tc")
int leaves_with_class(struct __sk_buff *skb)
{
	bpf_set_hash(skb, skb->cb[HASH_AT]);
	return leave_uplink(skb);
}

SEC("tc")
int relays_with_class(struct __sk_buff *skb)
{
	int verdict = enter_uplink(skb);

	skb->cb[HASH_AT] = skb->hash;
	return verdict;
}
