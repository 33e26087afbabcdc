// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Every struct and enum that user space shares, in one object's BTF. It is read,
 * never loaded: `meshfabric/model/tables.py` is held against it by a test.
 */
#include "types.h"
#include "reason.h"

struct layout {
	struct addr addr;
	struct address_key address_key;
	struct address_value address_value;
	struct workload workload;
	struct class_rule_key class_rule_key;
	struct traffic_class traffic_class;
	struct class_counter class_counter;
	struct node node;
	struct plain_key plain_key;
	struct plain_end plain_end;
	struct relay_end relay_end;
	struct relay_source_key relay_source_key;
	struct relay_source relay_source;
	struct relay_target relay_target;
	struct path path;
	struct turn turn;
	struct probe_ends probe_ends;
	struct loop loop;
	struct token token;
	struct policy_key policy_key;
	struct policy_value policy_value;
	struct audit audit;
	struct flow_key flow_key;
	struct flow flow;
	struct nat nat;
	struct recent recent;
	struct sweep sweep;
	struct prefix prefix;
	struct fabric fabric;
	struct uplink uplink;
	struct fragment_key fragment_key;
	struct fragment fragment;
	struct budget budget;
	struct quote quote;
	struct counter counter;
	enum sizes sizes;
	enum order_bits order_bits;
	enum probe_port probe_port;
	enum fault fault;
	enum delivery delivery;
	enum class_number class_number;
	enum class_rule class_rule;
	enum any_dscp any_dscp;
	enum grade grade;
	enum direction direction;
	enum direction_flag direction_flag;
	enum peer peer;
	enum verdict verdict;
	enum reason reason;
};

const volatile struct layout layout;
