"""A Postfix of its own: queue, configuration and mailboxes in the server's folder, on a high port of this machine alone."""

from __future__ import annotations

import os
import pathlib
import pwd
import smtplib
import unittest
from collections.abc import Sequence
from typing import ClassVar

from tests.servers.base import Server, find_program

SBIN = "/usr/lib/postfix/sbin"
USER = "postfix"
QUEUE = {
    **dict.fromkeys(("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace"), 0o700),
    **{"maildrop": 0o730, "private": 0o700, "public": 0o710},
}
"""Folders of the queue that belong to its user."""

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = mail.example.net
mydestination =
inet_interfaces = {host}
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtp_dns_support_level = disabled
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
virtual_mailbox_domains = box.example.org
virtual_mailbox_base = {folder}/boxes
virtual_mailbox_maps = inline:{{ ann@box.example.org=ann/ }}
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""
"""ann@box.example.org has a mailbox here."""

MASTER = """\
{host}:{port} inet n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n - 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
lmtp      unix - - n - - lmtp
virtual   unix - n n - - virtual
error     unix - - n - - error
retry     unix - - n - - error
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    name: ClassVar[str] = "postfix"

    def __init__(self, test: unittest.TestCase | None = None, settings: str = "") -> None:
        """``settings`` are further lines of main.cf."""
        self._settings = settings
        super().__init__(test)

    def prepare(self) -> None:
        self._master = find_program("master", "postfix", SBIN)
        if os.geteuid():
            raise unittest.SkipTest("Postfix is started by root")
        owner = pwd.getpwnam(USER)
        self.folder.chmod(0o755)
        for name, mode in {"config": 0o755, "data": 0o700, "boxes": 0o700, "queue": 0o755, "queue/pid": 0o755}.items():
            (self.folder / name).mkdir(mode)
        for name, mode in QUEUE.items():
            (self.folder / "queue" / name).mkdir(mode)
        for path in (self.folder / "data", self.folder / "boxes", *(self.folder / "queue" / name for name in QUEUE)):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        self._account = owner

    def command(self) -> Sequence[str]:
        values = {
            "folder": self.folder,
            "host": self.host,
            "port": self.port,
            "uid": self._account.pw_uid,
            "gid": self._account.pw_gid,
        }
        (self.folder / "config/main.cf").write_text(MAIN.format(**values) + self._settings)
        (self.folder / "config/master.cf").write_text(MASTER.format(**values))
        return (self._master, "-c", str(self.folder / "config"), "-d")

    def answers(self) -> bool:
        try:
            with smtplib.SMTP(self.host, self.port, local_hostname="test", timeout=20) as client:
                return client.ehlo()[0] == 250
        except (OSError, smtplib.SMTPException):
            return False

    @property
    def log(self) -> str:
        path = self.folder / "mail.log"
        return super().log + (path.read_text(errors="replace") if path.exists() else "")

    @property
    def queue(self) -> list[str]:
        """What is on its way."""
        folders = (self.folder / "queue" / name for name in ("incoming", "active", "deferred"))
        return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]

    @property
    def mailbox(self) -> list[bytes]:
        """What has come for ann@box.example.org."""
        return [path.read_bytes() for path in pathlib.Path(self.folder, "boxes/ann/new").glob("*")]
