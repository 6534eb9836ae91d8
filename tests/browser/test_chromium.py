"""The browser of the tests hears of no address that comes or goes, and has the network all the same."""

import subprocess
import sys

import pytest

from tests.browser import chromium

pytestmark = pytest.mark.slow

OPENS = """
import socket
socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    print(False)
except OSError as error:
    print(error.errno == 97)
"""
TELLS = "import runpy, sys; print(runpy.run_path(sys.argv[1])['refuse_netlink']())"


def said(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_it_opens_no_netlink_socket_where_the_kernel_can_be_told_so() -> None:
    """It is started all the same where a container has no leave to filter system calls."""
    assert said(chromium.__file__, sys.executable, "-c", OPENS) == said("-c", TELLS, chromium.__file__)
