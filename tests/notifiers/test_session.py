import requests

from tests import guard_vectors
from tests.notifiers import endpoint as behave
from tests.notifiers.case import LOOPBACK, HttpCase, closed_port
from tests.notifiers.endpoint import answer, certificate
from zaqar_notify.errors import RefusedAddress
from zaqar_notify.guard import Guard


class SessionTest(HttpCase):
    def test_request_and_response(self) -> None:
        endpoint = self.endpoint(answer(201, body=b"made"))
        session = self.clients().session()
        for url in (endpoint.url, endpoint.named("a.test")):
            response = session.post(url, data=b"x")
            self.assertEqual((201, b"made"), (response.status_code, response.content))
        self.assertEqual([b"x", b"x"], [one.body for one in endpoint.requests])

    def test_one_session_for_all(self) -> None:
        clients = self.clients()
        self.assertIs(clients.session(), clients.session())

    def test_literal_addresses_and_urls(self) -> None:
        session = self.clients(allowed=[]).session()
        refused = [guard_vectors.url_of(address) for address in guard_vectors.REFUSED_ADDRESSES] + guard_vectors.REFUSED_URLS
        for url in refused:
            # What requests itself refuses, or mends, before it reaches us is as good as refused.
            with self.subTest(url), self.assertRaises((RefusedAddress, requests.exceptions.RequestException)):
                session.get(url, timeout=0.001)

    def test_behind_a_name(self) -> None:
        addresses = {f"n{number}.test": address for number, address in enumerate(guard_vectors.REFUSED_ADDRESSES)}
        session = self.clients(allowed=[], look_up=lambda name: [addresses[name]]).session()
        for name, address in addresses.items():
            for scheme in ("http", "https"):
                with self.subTest((scheme, address)), self.assertRaisesRegex(RefusedAddress, "is not allowed"):
                    session.get(f"{scheme}://{name}:9/")

    def test_a_name_that_leads_to_this_machine(self) -> None:
        endpoint = self.endpoint()
        with self.assertRaises(RefusedAddress):
            self.clients(allowed=[], look_up=None).session().get(endpoint.named("localhost"))
        self.assertEqual(0, endpoint.connections)

    def test_a_refused_address_beside_an_allowed_one(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients(allowed=["127.0.0.1/32"], look_up=lambda name: ["::1", "127.0.0.2", "127.0.0.1"])
        self.assertEqual(200, clients.session().get(endpoint.named("a.test")).status_code)
        with self.assertRaises(requests.ConnectionError):
            clients.session().get(f"http://a.test:{closed_port()}/")

    def test_ports_and_https_only(self) -> None:
        endpoint = self.endpoint()
        for guard in (Guard(LOOPBACK, allowed_ports=[endpoint.port + 1]), Guard(LOOPBACK, https_only=True)):
            with self.assertRaises(RefusedAddress):
                self.clients(guard=guard).session().get(endpoint.url)
        self.assertEqual(0, endpoint.connections)

    def test_redirects_are_followed_only_when_asked_for_and_judged_again(self) -> None:
        target = self.endpoint(answer(200, body=b"there"))
        endpoint = self.endpoint(answer(302, f"Location: {target.named('a.test')}"))
        session = self.clients().session()
        for ask in (session.get, session.post, session.head, session.options):
            self.assertEqual(302, ask(endpoint.url).status_code)
        self.assertEqual(0, target.connections)
        self.assertEqual(b"there", session.get(endpoint.url, allow_redirects=True).content)
        forbidden = self.endpoint(answer(302, "Location: http://10.0.0.1/"))
        with self.assertRaises(RefusedAddress):
            session.get(forbidden.url, allow_redirects=True)

    def test_timeouts_by_default(self) -> None:
        endpoint = self.endpoint(behave.silent)
        with self.assertRaises(requests.ReadTimeout):
            self.clients(timeout=0.2).session().get(endpoint.url)

    def test_failures_are_those_of_requests(self) -> None:
        session = self.clients().session()
        for url in (f"http://127.0.0.1:{closed_port()}/", "http://nowhere.invalid/"):
            with self.subTest(url), self.assertRaises(requests.ConnectionError):
                session.get(url)

    def test_certificates(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        self.assertEqual(200, self.clients(ca_file=certificate().file).session().get(endpoint.named("secure.test")).status_code)
        with self.assertRaises(requests.exceptions.SSLError):
            self.clients().session().get(endpoint.url)

    def test_no_cookies(self) -> None:
        endpoint = self.endpoint(answer(200, "Set-Cookie: a=b"))
        session = self.clients().session()
        for _ in range(2):
            session.get(endpoint.url)
        self.assertNotIn("cookie", endpoint.requests[1].headers)

    def test_through_a_proxy(self) -> None:
        endpoint = self.endpoint(answer(201), tls=certificate().context())
        proxy = self.endpoint(behave.proxy)
        clients = self.clients(allowed=[], proxy=f"http://127.0.0.1:{proxy.port}", ca_file=certificate().file)
        self.assertEqual(201, clients.session().get(endpoint.named("secure.test")).status_code)
        with self.assertRaises(RefusedAddress):
            clients.session().get(endpoint.url)
