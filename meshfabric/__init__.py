"""meshfabric: one encrypted, policed and routed network for VMs, bare metal and Kubernetes nodes."""

__version__ = "0.1.0"
