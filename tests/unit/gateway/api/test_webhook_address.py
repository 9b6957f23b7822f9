"""Which addresses webhooks may reach."""

import asyncio

import pytest
from wan_t2v_gateway.api.errors import InvalidField
from wan_t2v_gateway.api.webhook_address import PrivateAddress, check_webhook_url, public_addresses
from wan_t2v_gateway.name_lookups import NameLookups

PRIVATE = {
    "private": ("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fc00::1]"),
    "loopback": ("127.0.0.1", "[::1]", "0.0.0.0", "[::]"),  # noqa: S104
    "link-local": ("169.254.1.1", "169.254.169.254", "[fe80::1]"),
    "site-local": ("[fec0::1]",),
    "multicast": ("224.0.0.1", "239.1.2.3", "[ff02::1]", "[ff0e::1]"),
    "reserved": ("192.0.0.9", "240.0.0.1", "255.255.255.255", "[4000::1]", "[2001:db8::1]", "[3fff::1]"),
    "NAT64": ("[64:ff9b::a9fe:a9fe]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]"),
    "6to4": ("[2002:7f00:1::]", "[2002:a9fe:a9fe::1]"),
    "Teredo": ("[2001:0:7f00:1::1]",),
    "mapped": ("[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]"),
    "compatible": ("[::127.0.0.1]", "[::1.1.1.1]"),
}
PUBLIC = ("1.1.1.1", "[2606:4700:4700::1111]", "[::ffff:1.1.1.1]", "[64:ff9b::101:101]", "[2002:101:101::1]")


def addresses(url: str, *allowed_hosts: str) -> list[str]:
    return asyncio.run(public_addresses(url, allowed_hosts, names=NameLookups(), owner="anna"))


@pytest.mark.parametrize(("kind", "host"), [(kind, host) for kind, hosts in PRIVATE.items() for host in hosts])
def test_an_address_that_is_not_of_one_public_host_is_refused(kind: str, host: str) -> None:
    with pytest.raises(PrivateAddress, match="is "):
        addresses(f"http://{host}/")


@pytest.mark.parametrize("host", PUBLIC)
def test_a_public_address_is_accepted(host: str) -> None:
    assert addresses(f"https://{host}:8443/hook?x=1")


def test_a_private_host_is_accepted_by_name() -> None:
    assert addresses("http://127.0.0.1:1/", "127.0.0.1") == ["127.0.0.1"]


@pytest.mark.parametrize("user", ["me", "me:secret", ":secret", ":", ""])
def test_a_url_with_a_user_or_a_password_is_refused(user: str) -> None:
    with pytest.raises(InvalidField, match="no user or password"):
        asyncio.run(check_webhook_url(f"http://{user}@1.1.1.1/", (), names=NameLookups(), owner="anna"))
