"""Which URLs and addresses may be sent to."""

from __future__ import annotations

import ipaddress

import pytest

from telephony.egress.guard import MAX_URL, Guard, forbidden_kind, url_problem
from telephony.errors import AddressRefused

OF_OUR_OWN = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "shared (carrier-grade NAT)",
    "100.127.255.255": "shared (carrier-grade NAT)",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.169.254": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.8": "reserved",
    "192.168.1.1": "private",
    "198.19.0.1": "reserved",
    "224.0.1.1": "multicast",
    "239.1.1.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::7f00:1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b::169.254.169.254": "link-local",
    "64:ff9b:1::1": "reserved",
    "2001::1": "reserved (Teredo and others)",
    "2001:db8::1": "reserved",
    "2002:7f00:1::1": "6to4",
    "2002:a00:1::1": "6to4",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fec0::1": "reserved",
    "ff02::1": "multicast",
    "100::1": "reserved",
}
OF_THE_INTERNET = (
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
)


@pytest.mark.parametrize(("address", "kind"), OF_OUR_OWN.items())
def test_an_address_of_our_own_networks_is_refused(address: str, kind: str) -> None:
    assert forbidden_kind(ipaddress.ip_address(address)) == kind
    with pytest.raises(AddressRefused, match="allow_private"):
        Guard().admit_address("example.com", ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressRefused):
        Guard().admit(f"https://{host}/hook")


@pytest.mark.parametrize("address", OF_THE_INTERNET)
def test_an_address_of_the_internet_is_admitted(address: str) -> None:
    Guard().admit_address("example.com", ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    Guard().admit(f"https://{host}:8443/hook")


@pytest.mark.parametrize("host", ["2130706433", "127.1", "017700000001", "127.0.0.01", "1.2.3.4.5"])
def test_an_address_in_disguise_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        Guard().admit(f"http://{host}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://",
        "https:///hook",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://@example.com/",
        "https://:word@example.com/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com/\r\nX-Header: 1",
        "https://example.com/\x00",
        "https://exämple.com/",
        "https://example.com/" + "a" * MAX_URL,
    ],
)
def test_a_url_of_no_use_is_refused(url: str) -> None:
    assert url_problem(url) is not None
    with pytest.raises(AddressRefused):
        Guard().admit(url)


@pytest.mark.parametrize("url", ["http://example.com", "https://example.com:1/a?b=c", "HTTPS://EXAMPLE.com/"])
def test_a_usable_url(url: str) -> None:
    assert url_problem(url) is None
    Guard().admit(url)


def test_what_the_configuration_allows() -> None:
    guard = Guard(("10.1.0.0/16", "fd00::/8", "192.168.1.7", "Crm.internal."))
    for address in ("10.1.2.3", "fd12::1", "192.168.1.7", "::ffff:10.1.2.3", "64:ff9b::10.1.0.1"):
        guard.admit_address("example.com", ipaddress.ip_address(address))
    guard.admit_address("crm.INTERNAL", ipaddress.ip_address("127.0.0.1"))
    for host, address in (("example.com", "10.2.0.1"), ("x.crm.internal", "127.0.0.1")):
        with pytest.raises(AddressRefused):
            guard.admit_address(host, ipaddress.ip_address(address))


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "1.2.3", "fd00::/200"])
def test_a_network_that_is_none(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Guard((entry,))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("CRM.internal.", True),
        ("[fd00::1]", True),
        ("8.8.8.8", False),
        ("example.com", False),
    ],
)
def test_what_was_allowed_though_it_is_ours(host: str, allowed: bool) -> None:
    assert Guard(["10.1.0.0/16", "crm.internal", "fd00::/8"]).allows(host) is allowed
