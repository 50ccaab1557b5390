import unittest

from tests import guard_vectors
from zaqar_notify.errors import CannotStart, InvalidRequest, RefusedAddress
from zaqar_notify.guard import Guard, Target


class AddressTest(unittest.TestCase):
    def test_refused(self) -> None:
        guard = Guard()
        for address in guard_vectors.REFUSED_ADDRESSES:
            with self.subTest(address):
                self.assertIn(address, str(guard.check_address(address)))

    def test_allowed(self) -> None:
        guard = Guard()
        for address in guard_vectors.ALLOWED_ADDRESSES:
            with self.subTest(address):
                self.assertIsNone(guard.check_address(address))

    def test_brackets_and_scope_ids_are_ignored(self) -> None:
        guard = Guard(["fe80::/10"])
        self.assertIsNone(guard.check_address("[fe80::1%eth0]"))
        self.assertIsNotNone(Guard().check_address("fe80::1%eth0"))

    def test_what_is_no_address_is_refused(self) -> None:
        for text in ("", "localhost", "0177.0.0.1", "1.2.3", "::g"):
            with self.subTest(text):
                self.assertIn("not an IP address", str(Guard().check_address(text)))

    def test_networks_that_are_allowed_after_all(self) -> None:
        guard = Guard(["127.0.0.0/8", "::1/128", "fd00::/8"])
        for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "fd00::1"):
            with self.subTest(address):
                self.assertIsNone(guard.check_address(address))
        for address in ("10.0.0.1", "::2", "::ffff:10.0.0.1", "fc00::1"):
            with self.subTest(address):
                self.assertIsNotNone(guard.check_address(address))

    def test_a_network_that_is_none_stops_the_start(self) -> None:
        for text in ("127.0.0.1/8", "localhost", "10.0.0.0/33"):
            with self.subTest(text), self.assertRaisesRegex(CannotStart, "allowed_networks"):
                Guard([text])


class UrlTest(unittest.TestCase):
    def test_refused(self) -> None:
        literal = [guard_vectors.url_of(address) for address in guard_vectors.REFUSED_ADDRESSES]
        for url in guard_vectors.REFUSED_URLS + literal:
            with self.subTest(url), self.assertRaises(RefusedAddress):
                Guard().check_url(url)

    def test_allowed(self) -> None:
        literal = [guard_vectors.url_of(address) for address in guard_vectors.ALLOWED_ADDRESSES]
        for url in guard_vectors.ALLOWED_URLS + literal:
            with self.subTest(url):
                Guard().check_url(url)

    def test_where_a_url_leads(self) -> None:
        guard = Guard(["127.0.0.0/8", "::1/128"])
        cases = {
            "http://Example.org": Target("http", "example.org", 80, False),
            "HTTPS://example.org/a?b": Target("https", "example.org", 443, False),
            "https://example.org:8443": Target("https", "example.org", 8443, False),
            "http://0x7f.1:81/": Target("http", "127.0.0.1", 81, True),
            "http://[0:0::1]:82/": Target("http", "::1", 82, True),
            "http://example.org:/": Target("http", "example.org", 80, False),
        }
        for url, target in cases.items():
            with self.subTest(url):
                self.assertEqual(target, guard.check_url(url))

    def test_https_only(self) -> None:
        guard = Guard(https_only=True)
        guard.check_url("https://example.org/")
        with self.assertRaisesRegex(RefusedAddress, "https"):
            guard.check_url("http://example.org/")

    def test_port_list(self) -> None:
        guard = Guard(allowed_ports=[443, 8443])
        guard.check_url("https://example.org/")
        guard.check_url("http://example.org:8443/")
        for url in ("http://example.org/", "https://example.org:444/"):
            with self.subTest(url), self.assertRaisesRegex(RefusedAddress, "443, 8443"):
                guard.check_url(url)

    def test_a_refusal_is_an_invalid_request(self) -> None:
        with self.assertRaises(InvalidRequest) as caught:
            Guard().check_url("http://127.0.0.1/")
        self.assertEqual(400, caught.exception.status)
        self.assertIn("127.0.0.0/8 (loopback)", str(caught.exception))
