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
except OSError as error:
    print(error.errno == 97)
"""


def test_it_opens_no_netlink_socket() -> None:
    command = [sys.executable, chromium.__file__, sys.executable, "-c", OPENS]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "True\n"
