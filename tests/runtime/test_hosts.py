"""Names and addresses that are another machine on each machine."""

import pytest

from bhsearch.runtime.hosts import is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost.",
        "db.localhost",
        "ip6-localhost",
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "[::1]",
        "0.0.0.0",
        "::",
    ],
)
def test_the_machine_itself_is_recognised(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "db", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1", "192.168.0.1", "fe80::1", "128.0.0.1"],
)
def test_other_machines_are_not(host):
    assert not is_loopback(host)
