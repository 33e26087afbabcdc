/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The gateway that every workload sees, 169.254.1.1 and fe80::6d66: its addresses,
 * and frames that come from it. neighbour.h answers who asks for it, complaint.h
 * speaks in its name.
 */
#ifndef MESHFABRIC_GATEWAY_H
#define MESHFABRIC_GATEWAY_H

#include "parse.h"
#include "settings.h"

#define GATEWAY4 bpf_htonl(0xa9fe0101) /* 169.254.1.1 */
#define GATEWAY6 {.byte = {0xfe, 0x80, [14] = 0x6d, [15] = 0x66}} /* fe80::6d66 */

static __always_inline struct addr gateway_address(__u8 version)
{
	const struct addr v4 = {.word = {[2] = V4_MAPPED, [3] = GATEWAY4}}, v6 = GATEWAY6;

	return version == 4 ? v4 : v6;
}

static __always_inline void copy_gateway_mac(__u8 *to)
{
	for (int i = 0; i < ETH_ALEN; i++)
		to[i] = gateway_mac[i];
}

/* The whole link header, and not by what the sender wrote there. Wide, unaligned stores: 6 bytes are 4 and 2. */
static __always_inline bool set_link_header(struct __sk_buff *skb, const __u8 *destination, __u8 version)
{
	__u8 *eth = start_of(skb);

	if (eth + ETH_HLEN > (__u8 *)end_of(skb))
		return false;
	*(__u32 *)eth = *(const __u32 *)destination;
	*(__u16 *)(eth + 4) = *(const __u16 *)(destination + 4);
	*(__u32 *)(eth + 6) = *(const volatile __u32 *)gateway_mac;
	*(__u16 *)(eth + 10) = *(const volatile __u16 *)(gateway_mac + 4);
	((struct ethhdr *)eth)->h_proto = version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return true;
}

/* What the Internet checksum is made of a sum (RFC 1071). */
static __always_inline __u16 checksum_of(__s64 sum)
{
	__u32 folded = ((__u32)sum & 0xffff) + ((__u32)sum >> 16);

	return ~((folded & 0xffff) + (folded >> 16));
}

#endif
