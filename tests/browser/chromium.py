"""Runs Chromium without news of the network: `python chromium.py PATH [ARGUMENT]...`.

Chromium gives up its requests when an address of the machine comes or goes, as with each container of another test:
net::ERR_NETWORK_CHANGED. The kernel tells it so through a netlink socket, which a filter of system calls refuses here.
"""

import ctypes
import os
import platform
import struct
import sys

# By machine: its number for the audit of system calls, and that of socket().
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# Instructions of a classic BPF program, and what it returns: to go on, or to fail with EAFNOSUPPORT.
_LOAD, _UNLESS_EQUAL_SKIP, _RETURN = 0x20, 0x15, 0x06
_GO_ON, _FAIL = 0x7FFF0000, 0x00050000 | 97
# Where in the data of a system call its number, the machine and the first argument are.
_NUMBER, _MACHINE, _FAMILY = 0, 4, 16
_AF_NETLINK = 16
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


def refuse_netlink() -> bool:
    """Let this process and what it runs open no netlink socket. Whether the kernel could be told so."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    machine, socket = _MACHINES[platform.machine()]
    instructions = [
        (_LOAD, 0, _MACHINE),
        (_UNLESS_EQUAL_SKIP, 5, machine),
        (_LOAD, 0, _NUMBER),
        (_UNLESS_EQUAL_SKIP, 3, socket),
        (_LOAD, 0, _FAMILY),
        (_UNLESS_EQUAL_SKIP, 1, _AF_NETLINK),
        (_RETURN, 0, _FAIL),
        (_RETURN, 0, _GO_ON),
    ]
    program = b"".join(struct.pack("HBBI", code, 0, skip, value) for code, skip, value in instructions)
    held = ctypes.create_string_buffer(program, len(program))
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    failed = prctl(_PR_SET_SECCOMP, _MODE_FILTER, struct.pack("HP", len(instructions), ctypes.addressof(held)))
    return not failed


if __name__ == "__main__":
    refuse_netlink()
    os.execv(sys.argv[1], sys.argv[1:])
