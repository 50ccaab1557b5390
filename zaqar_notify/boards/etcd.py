"""etcd: a few keys for each job; a claim hangs on a lease. Asked by its JSON gateway."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import etcd3gw
import requests
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.lease import Lease
from taskflow.jobs.backends import impl_etcd

from zaqar_notify.boards import Address, Board, Settings
from zaqar_notify.errors import CannotStart


class EtcdBoard(impl_etcd.EtcdJobBoard):  # type: ignore[misc]
    errors: ClassVar[tuple[type[Exception], ...]] = (Etcd3Exception, requests.RequestException, OSError)

    _client: etcd3gw.Etcd3Client | None

    def connect(self) -> None:
        """Without TaskFlow's watch: that is not taken up again after etcd was away, and nobody is told."""
        if self._client is None:
            known = {name: kind(self._conf[name]) for name, kind in self.ETCD_CONFIG_OPTIONS if name in self._conf}
            self._client = etcd3gw.Etcd3Client(**known)
        self._client.status()

    def listing(self) -> list[Any]:
        return list(self._fetch_jobs(ensure_fresh=True))

    def renew(self, job: Any, who: str) -> bool:
        """TaskFlow's `extend_expiry` goes on with the lease of an earlier claim."""
        held = self.get_owner_data(job)
        if not held or held["owner"] != who or self._client is None:
            return False
        return bool(Lease(id=held["lease_id"], client=self._client).refresh() > 0)


def make(address: Address, settings: Settings, turn: int) -> Board:
    if address.username:
        raise CannotStart(
            "Bad [cluster] connection: etcd is asked without a user name; certificates are cert_cert and cert_key"
        )
    host, port = address.hosts[turn % len(address.hosts)]
    options: dict[str, Any] = {
        **address.options,
        "host": host,
        "port": port,
        "protocol": "https" if address.tls else "http",
        "path": settings.name,
        "timeout": settings.timeout,
        "ttl": math.ceil(settings.expiry),
    }
    return EtcdBoard(settings.name, options)
