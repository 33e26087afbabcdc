"""Debian's kernels, as they are, in QEMU: the tests' way to kernels other than this machine's.

    __main__  the command line       machine  one VM, from boot to the command's exit status
    kernels   what vm.sh unpacked    initramfs, modules, cpio, init   what brings it up

The guest sees this machine's files as they are, and what it writes is gone with it.
"""
