"""How a job board is chosen, and its URL read; tests/flow/test_boards.py has the boards themselves."""

import subprocess
import sys
import unittest

from tests.flow.case import KEY
from zaqar_notify import boards, bootstrap
from zaqar_notify.errors import CannotStart

SETTINGS = boards.Settings("name", 20.0, 2.5)


class AddressTest(unittest.TestCase):
    def test_urls(self):
        for kind, url, expected in (
            ("redis", "redis://h", {"hosts": (("h", 6379),)}),
            (
                "redis",
                "rediss://u:p%40w@h:1/7",
                {"hosts": (("h", 1),), "tls": True, "username": "u", "password": "p@w", "path": "7"},
            ),
            (
                "redis",
                "redis://:p@a,b:2?sentinel=s",
                {"hosts": (("a", 6379), ("b", 2)), "password": "p", "options": {"sentinel": "s"}},
            ),
            ("etcd", "etcds://[::1]:2,h", {"hosts": (("::1", 2), ("h", 2379)), "tls": True}),
            ("zookeeper", "zookeeper://a,b:5/root/", {"hosts": (("a", 2181), ("b", 5)), "path": "root"}),
        ):
            with self.subTest(url=url):
                self.assertEqual(boards.Address(**expected), boards.parse(kind, url))

    def test_what_is_no_url_of_such_a_board(self):
        for kind, url in (
            ("redis", "h:6379"),
            ("redis", "http://h"),
            ("etcd", "redis://h"),
            ("etcd", "etcd://"),
            ("etcd", "etcd://a,,b"),
            ("zookeeper", "zookeeper://a:x"),
            ("redis", "redis://secret@h:99999"),
            ("redis", "redis://h?nonsense"),
        ):
            with self.subTest(url=url), self.assertRaises(CannotStart) as caught:
                boards.parse(kind, url)
            self.assertIn(f"{kind}://127.0.0.1:", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))

    def make(self, kind, url, turn=0):
        return boards.load(kind).make(boards.parse(kind, url), SETTINGS, turn)._conf

    def test_what_becomes_of_it(self):
        conf = self.make("redis", "rediss://u:p@a:1,b:2/7?health_check_interval=5", turn=1)
        expected = {"host": "b", "port": 2, "db": 7, "ssl": True, "username": "u", "password": "p", "namespace": "name"}
        self.assertLessEqual({**expected, "socket_timeout": 2.5, "health_check_interval": "5"}.items(), conf.items())
        conf = self.make("redis", "redis://a:1,b/7?sentinel=main")
        self.assertEqual(("main", ["a:1", "b:6379"], "a"), (conf["sentinel"], conf["sentinel_fallbacks"], conf["host"]))
        conf = self.make("etcd", "etcds://a,[::1]:5?ca_cert=/ca.pem", turn=3)
        expected = {
            "host": "::1",
            "port": 5,
            "protocol": "https",
            "ca_cert": "/ca.pem",
            "path": "name",
            "ttl": 20,
            "timeout": 2.5,
        }
        self.assertEqual(expected, conf)
        conf = self.make("zookeeper", "zookeeper://a,[::1]:5/root")
        self.assertEqual(
            {"hosts": "a:2181,[::1]:5", "path": "/root/name/jobs", "timeout": 20.0, "check_compatible": False}, conf
        )

    def test_what_a_board_has_no_use_for(self):
        for kind, url in (("redis", "redis://h/zero"), ("etcd", "etcd://u:p@h"), ("zookeeper", "zookeeper://u@h")):
            with self.subTest(url=url), self.assertRaises(CannotStart):
                self.make(kind, url)


class ChoiceTest(unittest.TestCase):
    def configure(self, **options):
        overrides = {("cluster", name): value for name, value in options.items()}
        return bootstrap.configure(overrides={("encryption", "keys"): [KEY], **overrides})

    def test_none(self):
        self.assertIsNone(bootstrap.board_maker(self.configure()))

    def test_one(self):
        make = bootstrap.board_maker(self.configure(jobboard="redis", connection="redis://a:1,b:2", lease=4.0))
        self.assertEqual(["a", "b", "a"], [make(turn)._conf["host"] for turn in range(3)])
        self.assertEqual(0.5, make(0)._conf["socket_timeout"], "it leaves the most of a lease to renew it")

    def test_what_cannot_be(self):
        for options, what in (
            ({"jobboard": "etcd"}, "no [cluster] connection"),
            ({"jobboard": "etcd", "connection": "redis://h"}, "not the URL"),
            ({"jobboard": "redis", "connection": "redis://h?health_check_interval=soon"}, "soon"),
        ):
            with self.subTest(options=options), self.assertRaises(CannotStart) as caught:
                bootstrap.board_maker(self.configure(**options))
            self.assertIn(what, str(caught.exception))

    def test_a_library_that_is_missing_is_named_with_what_installs_it(self):
        for kind, library in (("redis", "redis"), ("etcd", "etcd3gw"), ("zookeeper", "kazoo")):
            program = f"import sys; sys.modules[{library!r}] = None; from zaqar_notify import boards; boards.load({kind!r})"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
            self.assertIn(f"CannotStart: [cluster] jobboard is {kind}, which needs {library}", done.stderr)
            self.assertIn(f"pip install 'zaqar-notify[{kind}]'", done.stderr)


if __name__ == "__main__":
    unittest.main()
