"""TaskFlow's job boards on Redis, etcd and ZooKeeper."""

import unittest

from tests.flow.conformance_boards import BoardConformance
from tests.servers.etcd import Etcd
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper


class RedisBoardTest(BoardConformance, unittest.TestCase):
    KIND = "redis"
    make_server = Redis


class EtcdBoardTest(BoardConformance, unittest.TestCase):
    KIND = "etcd"
    make_server = Etcd


class ZooKeeperBoardTest(BoardConformance, unittest.TestCase):
    KIND = "zookeeper"
    make_server = ZooKeeper


if __name__ == "__main__":
    unittest.main()
