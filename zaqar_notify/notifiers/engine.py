"""The libcurl engine: one thread that runs any number of HTTP requests at once.

It drives libcurl's ``socket_action`` with epoll, so that idle transfers cost nothing. Names are resolved before a transfer
begins (`Resolver`) and handed to libcurl; the guard judges each address at the moment it is dialled. There is no limit on
transfers here: whoever submits bounds them, since libcurl's own limits let one host hold up others.

Requests that name a `Request.pool` have connections of their own, apart from all others, and share them: with HTTP/2 they are
streams of as few connections as the other side's limits allow.
"""

from __future__ import annotations

import collections
import functools
import logging
import os
import resource
import select
import threading
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any

import certifi
import pycurl

from zaqar_notify.errors import CannotStart, RefusedAddress
from zaqar_notify.guard import Guard, Target, is_address
from zaqar_notify.notifiers.http import Fault, Request, Response
from zaqar_notify.notifiers.resolver import Answer, Resolver
from zaqar_notify.notifiers.transfers import LOCAL_ERRNOS, Pool, Transfer, cut_if_silent, phases_of, prepare

LOG = logging.getLogger(__name__)

_START_STEP = 128  # transfers started before sockets are served again
_IDLE_HANDLES = 1024
_BIG_BODY = 16384  # an idle handle does not hold on to a larger one
_LOOK = 0.1
"""Seconds between two looks into shared connections, while something is under way there."""
_LOOK_UP_TICK = 0.1
_CONNECTION_LIFETIME = 600  # then a new one is made, so that a changed address is noticed
_SHARED_LIFETIME = 3600  # providers of push want theirs to stay
_REPEATS = 10  # each of them stands for the five tries of libcurl itself
_SPARE_FILES = 512  # descriptors that connections leave for everything else
_LOADED_NAMES = 20000

_PROXY_PORTS = {"http": 1080, "https": 443}  # libcurl's defaults

_READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLHUP | select.EPOLLRDHUP
_INTEREST = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}

# libcurl's error codes that pycurl has no names for.
_E_HTTP2_STREAM = 92
_E_PROXY = 97
_E_TOO_LARGE = 100

_FAULTS = {
    pycurl.E_URL_MALFORMAT: Fault.URL,
    pycurl.E_UNSUPPORTED_PROTOCOL: Fault.PROTOCOL,
    pycurl.E_COULDNT_RESOLVE_PROXY: Fault.PROXY,
    pycurl.E_COULDNT_RESOLVE_HOST: Fault.RESOLVER,
    pycurl.E_COULDNT_CONNECT: Fault.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: Fault.TIMEOUT,
    pycurl.E_SSL_CONNECT_ERROR: Fault.TLS,
    pycurl.E_SSL_CIPHER: Fault.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Fault.TLS,
    pycurl.E_SSL_ISSUER_ERROR: Fault.TLS,
    pycurl.E_SSL_INVALIDCERTSTATUS: Fault.TLS,
    pycurl.E_SSL_CACERT_BADFILE: Fault.LOCAL,
    pycurl.E_GOT_NOTHING: Fault.RESET,
    pycurl.E_SEND_ERROR: Fault.RESET,
    pycurl.E_RECV_ERROR: Fault.RESET,
    pycurl.E_PARTIAL_FILE: Fault.RESET,
    pycurl.E_HTTP2: Fault.RESET,
    _E_HTTP2_STREAM: Fault.RESET,
    _E_TOO_LARGE: Fault.PROTOCOL,
    pycurl.E_FTP_WEIRD_SERVER_REPLY: Fault.PROTOCOL,
    _E_PROXY: Fault.PROXY,
    pycurl.E_BAD_CONTENT_ENCODING: Fault.PROTOCOL,
    pycurl.E_OUT_OF_MEMORY: Fault.LOCAL,
}
# With a proxy, these before the proxy has answered CONNECT mean that the proxy itself failed. A timeout does not: a proxy that
# waits for a silent endpoint looks the same.
_PROXY_SUSPECTS = frozenset({Fault.CONNECT, Fault.TLS, Fault.RESET, Fault.PROTOCOL, Fault.PROXY})


class Engine:
    """``proxy``: URL of an egress proxy, which then judges names; literal addresses are judged here."""

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        *,
        ca_file: str | None = None,
        proxy: str | None = None,
        connections: int = 4096,
        http2: bool = True,
    ) -> None:
        self._guard = guard
        self._resolver = resolver
        self._ca_file = ca_file or certifi.where()
        self._proxy = proxy or None
        self._proxy_target = _proxy_target(self._proxy)
        self._connections = connections
        self._http2 = http2
        self._judge = functools.lru_cache(maxsize=16384)(self._check)
        self._inbox: collections.deque[Request] = collections.deque()
        self._answers: collections.deque[tuple[str, Answer]] = collections.deque()
        self._looking: dict[str, list[Request]] = {}  # name -> requests that wait for its addresses
        self._pools: dict[str, Pool] = {}
        self._watched: dict[int, Pool] = {}  # by descriptor
        self._next_tick = 0.0
        self._signalled = False
        self._lock = threading.Lock()
        self._closing = False
        self._ended = True
        self._look_at = 0.0
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return not self._ended

    def start(self) -> None:
        limit = _raise_file_limit()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._connections = max(1, min(self._connections, limit - _SPARE_FILES))
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="http-engine", daemon=True)
        self._thread.start()

    def send_many(self, requests: Iterable[Request]) -> None:
        """Start these requests and return at once; safe from any thread."""
        self._inbox.extend(requests)
        if not self._wake():
            self._end_inbox()

    def close(self) -> None:
        """Stop. What is under way ends with `Fault.CLOSED`, before this returns."""
        self._closing = True
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._resolver.close()

    # -- the thread ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
        except Exception:
            LOG.exception("The HTTP engine stopped; what was under way is reported as stopped")
        finally:
            self._end()

    def _step(self) -> None:
        for fd, mask in self._epoll.poll(self._wait(), 512):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                self._signalled = False
            else:
                pool = self._watched.get(fd)
                if pool is not None:  # else it was closed by what came before it
                    pool.multi.socket_action(fd, _action(mask))
        for pool in self._pools.values():
            if pool.timer_at is not None and time.monotonic() >= pool.timer_at:
                pool.timer_at = None
                pool.multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            if pool.active:
                self._collect(pool)
        self._look_into_shared()
        if self._answers:
            self._hear_answers()
        if self._inbox:
            self._start_some()
        if self._looking:
            self._end_late_look_ups()

    def _look_into_shared(self) -> None:
        """Of many streams on one connection libcurl forgets some now and then: it has read their answers, and hands them out
        when something else happens on the connection, or a timer of theirs (5 s) ends."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK
        for fd, pool in list(self._watched.items()):
            if pool.shared and pool.active and self._watched.get(fd) is pool:
                pool.multi.socket_action(fd, pycurl.CSELECT_IN)
                self._collect(pool)

    def _wait(self) -> float:
        wait = self._wait_for_events()
        if any(pool.shared and pool.active for pool in self._pools.values()):
            return _LOOK if wait < 0 else min(wait, _LOOK)
        return wait

    def _wait_for_events(self) -> float:
        if self._inbox or self._answers:
            return 0.0
        timers = [pool.timer_at for pool in self._pools.values() if pool.timer_at is not None]
        wait = max(min(timers) - time.monotonic(), 0.0) if timers else -1.0
        if self._looking:
            return _LOOK_UP_TICK if wait < 0 else min(wait, _LOOK_UP_TICK)
        return wait

    def _wake(self) -> bool:
        """False: the thread has ended."""
        if self._signalled:
            return not self._ended
        with self._lock:  # else the descriptor could be closed, and belong to somebody else, when it is written to
            if self._ended:
                return False
            self._signalled = True
            os.eventfd_write(self._wake_fd, 1)
            return True

    def _pool(self, name: str) -> Pool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = Pool(name, self._connections)
            pool.multi.setopt(pycurl.M_SOCKETFUNCTION, functools.partial(self._watch, pool))
        return pool

    def _watch(self, pool: Pool, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """libcurl says what it waits for on a socket."""
        if what == pycurl.POLL_REMOVE:
            self._watched.pop(fd, None)
            try:
                self._epoll.unregister(fd)
            except OSError:  # it was closed already
                return
            return
        interest = _INTEREST.get(what, 0)
        self._watched[fd] = pool
        try:
            self._epoll.register(fd, interest)
        except FileExistsError:
            self._epoll.modify(fd, interest)

    # -- from request to transfer -------------------------------------------------------------------------------------------

    def _start_some(self) -> None:
        inbox = self._inbox
        now = time.monotonic()
        for _ in range(min(len(inbox), _START_STEP)):
            self._start(inbox.popleft(), now)

    def _start(self, request: Request, now: float) -> None:
        target, refusal = self._judge(request.url)
        if target is None:
            self._fail(request, Fault.GUARD, refusal)
            return
        dialled = self._proxy_target or target
        if dialled.literal:
            self._transfer(request, now, None)
            return
        answer = self._resolver.cached(dialled.host)
        if answer is not None:
            self._start_resolved(request, now, dialled, answer)
            return
        waiting = self._looking.get(dialled.host)
        if waiting is None:
            self._looking[dialled.host] = [request]
            self._resolver.ask(dialled.host, self._answered)
        else:
            waiting.append(request)

    def _check(self, url: str) -> tuple[Target | None, str]:
        try:
            return self._guard.check_url(url), ""
        except RefusedAddress as error:
            return None, str(error)

    def _answered(self, name: str, answer: Answer) -> None:
        """On the resolver's thread."""
        self._answers.append((name, answer))
        self._wake()

    def _hear_answers(self) -> None:
        now = time.monotonic()
        while self._answers:
            name, answer = self._answers.popleft()
            for request in self._looking.pop(name, ()):
                dialled = self._proxy_target or self._judge(request.url)[0]
                if dialled is not None:
                    self._start_resolved(request, now, dialled, answer)

    def _end_late_look_ups(self) -> None:
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + _LOOK_UP_TICK
        for name, requests in self._looking.items():
            late = [request for request in requests if request.deadline <= now]
            if late:
                requests[:] = [request for request in requests if request.deadline > now]
            for request in late:
                self._fail(request, Fault.RESOLVER, f"no answer for {name} in time")

    def _start_resolved(self, request: Request, now: float, dialled: Target, answer: Answer) -> None:
        if answer.fault is not None:
            fault = Fault.PROXY if self._proxy else answer.fault
            self._fail(request, fault, f"{dialled.host}: {answer.detail}")
            return
        pair = (dialled.host, dialled.port)
        known = self._pool(request.pool).loaded
        loaded = known.get(pair)
        if loaded is answer.addresses:
            self._transfer(request, now, None)
            return
        lines = [f"{pair[0]}:{pair[1]}:{','.join(_bracketed(address) for address in answer.addresses)}"]
        if loaded is None and len(known) >= _LOADED_NAMES:
            oldest = next(iter(known))
            del known[oldest]
            lines.insert(0, f"-{oldest[0]}:{oldest[1]}")
        if self._transfer(request, now, lines):
            known[pair] = answer.addresses

    def _transfer(self, request: Request, now: float, resolve: list[str] | None) -> bool:
        """False: it has failed already."""
        left = request.deadline - now
        if left <= 0:
            if request.repeats:
                self._fail(request, Fault.RESET, "each time before an answer")
            else:
                self._fail(request, Fault.LATE, "its time was over before it could be sent")
            return False
        pool = self._pool(request.pool)
        transfer = pool.idle.pop() if pool.idle else self._make(pool)
        transfer.request = request
        transfer.started_at = now
        try:
            prepare(transfer, request, left, resolve)
            pool.multi.add_handle(transfer.curl)
        except (pycurl.error, TypeError, ValueError) as error:
            transfer.request = None
            transfer.curl.close()
            self._fail(request, Fault.OTHER, str(error))
            return False
        pool.active.add(transfer)
        return True

    def _make(self, pool: Pool) -> Transfer:
        transfer = Transfer(None if self._proxy else self._guard)
        setopt = transfer.curl.setopt
        setopt(pycurl.NOSIGNAL, 1)
        setopt(pycurl.POST, 1)
        setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        http2 = self._http2 or pool.shared
        setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS if http2 else pycurl.CURL_HTTP_VERSION_1_1)
        setopt(pycurl.TCP_KEEPALIVE, 1)
        setopt(pycurl.MAXLIFETIME_CONN, _SHARED_LIFETIME if pool.shared else _CONNECTION_LIFETIME)
        if pool.shared:
            setopt(pycurl.MAXAGE_CONN, _SHARED_LIFETIME)
            setopt(pycurl.PIPEWAIT, 1)  # for a connection that is being made, rather than make another
        setopt(pycurl.CAINFO, self._ca_file)
        setopt(pycurl.PROXY, self._proxy or "")  # empty: the environment's are ignored
        setopt(pycurl.NOPROXY, "")
        if self._proxy:
            # A tunnel for http as well: else the proxy's own errors could not be told from the endpoint's.
            setopt(pycurl.HTTPPROXYTUNNEL, 1)
        setopt(pycurl.OPENSOCKETFUNCTION, transfer.open_socket)
        setopt(pycurl.HEADERFUNCTION, transfer.head.append)
        setopt(pycurl.WRITEFUNCTION, transfer.write)
        return transfer

    # -- from transfer to response ------------------------------------------------------------------------------------------

    def _collect(self, pool: Pool) -> None:
        left = 1
        while left:
            left, complete, failed = pool.multi.info_read()
            for curl in complete:
                self._finish(pool, curl.transfer, 0, "")
            for curl, code, text in failed:
                self._finish(pool, curl.transfer, code, text)

    def _finish(self, pool: Pool, transfer: Transfer, code: int, text: str) -> None:
        request = transfer.request
        if request is None:
            return
        status = transfer.curl.getinfo(pycurl.RESPONSE_CODE)
        response = Response(status, b"".join(transfer.head), b"".join(transfer.body))
        if code and not (code == pycurl.E_WRITE_ERROR and transfer.size > request.max_response_bytes):
            response.fault, response.detail = self._judge_failure(transfer, code, text)
        if request.timed or response.fault is not None or not 200 <= status < 300:
            response.phases = phases_of(transfer, request, answered=status > 0)
        if pool.shared:
            cut_if_silent(pool, transfer, response)
        self._release(pool, transfer)
        if pool.shared and self._is_to_repeat(pool, request, response):
            request.repeats += 1
            self._inbox.append(request)
        else:
            _answer(request, response)

    def _is_to_repeat(self, pool: Pool, request: Request, response: Response) -> bool:
        """A connection has ended before its answer, and the other side is one that does answer."""
        target, _ = self._judge(request.url)
        if target is None:
            return False
        place = (target.host, target.port)
        if response.status:
            if len(pool.answered) >= _LOADED_NAMES:
                pool.answered.clear()
            pool.answered[place] = time.monotonic()
            return False
        if response.fault is not Fault.RESET or request.repeats >= _REPEATS:
            return False
        return pool.answered.get(place, 0.0) >= request.started_at

    def _release(self, pool: Pool, transfer: Transfer) -> None:
        request = transfer.request
        pool.multi.remove_handle(transfer.curl)
        pool.active.discard(transfer)
        transfer.request = None
        if len(pool.idle) >= _IDLE_HANDLES:
            transfer.curl.close()
            return
        if request is not None and len(request.body) > _BIG_BODY:
            transfer.curl.setopt(pycurl.POSTFIELDS, b"")
        transfer.head.clear()
        transfer.body.clear()
        transfer.size = 0
        transfer.dialled = False
        transfer.refusal = transfer.local = None
        pool.idle.append(transfer)

    def _judge_failure(self, transfer: Transfer, code: int, text: str) -> tuple[Fault, str]:
        if transfer.local is not None:
            return Fault.LOCAL, transfer.local
        if transfer.refusal is not None and not transfer.dialled:
            return Fault.GUARD, transfer.refusal
        curl = transfer.curl
        fault = _FAULTS.get(code, Fault.OTHER)
        number = curl.getinfo(pycurl.OS_ERRNO)
        if fault is Fault.CONNECT and number:
            text = os.strerror(number)
        if fault is Fault.CONNECT and number in LOCAL_ERRNOS:
            return Fault.LOCAL, text
        if fault is Fault.TIMEOUT:
            text = "no connection in time" if not curl.getinfo(pycurl.CONNECT_TIME) else "no complete answer in time"
        if self._proxy:
            return _judge_proxy(transfer, fault, text)
        return fault, text

    def _fail(self, request: Request, fault: Fault, detail: str) -> None:
        _answer(request, Response(0, fault=fault, detail=detail, phases={"end": time.monotonic() - request.started_at}))

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            os.close(self._wake_fd)
        for transfer in [transfer for pool in self._pools.values() for transfer in pool.active]:
            request = transfer.request
            transfer.curl.close()
            transfer.request = None
            if request is not None:
                self._fail(request, Fault.CLOSED, "")
        for requests in self._looking.values():
            self._inbox.extend(requests)
        self._looking.clear()
        self._end_inbox()
        for pool in self._pools.values():
            pool.active.clear()
            pool.close()
        self._epoll.close()

    def _end_inbox(self) -> None:
        while True:
            try:
                request = self._inbox.popleft()
            except IndexError:
                return
            self._fail(request, Fault.CLOSED, "")


def _answer(request: Request, response: Response) -> None:
    try:
        request.done(request, response)
    except Exception:  # a caller's bug costs its own request, not the thread that all share
        LOG.exception("The callback of a request failed")


def _action(mask: int) -> int:
    action: int = pycurl.CSELECT_IN if mask & _READABLE else 0
    if mask & select.EPOLLOUT:
        action |= pycurl.CSELECT_OUT
    if mask & select.EPOLLERR:
        action |= pycurl.CSELECT_ERR
    return action


def _judge_proxy(transfer: Transfer, fault: Fault, text: str) -> tuple[Fault, str]:
    code = transfer.curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if code == 403:
        return Fault.PROXY_REFUSED, "the egress proxy answered 403"
    if code in (502, 503, 504):
        return Fault.PROXY_GATEWAY, f"the egress proxy answered {code}"
    if code >= 300:
        return Fault.PROXY, f"the egress proxy answered {code}"
    # Without a new connection the tunnel was there before, and the fault is the endpoint's.
    if code == 0 and fault in _PROXY_SUSPECTS and transfer.dialled:
        return Fault.PROXY, text
    if fault is Fault.TIMEOUT and not transfer.curl.getinfo(pycurl.CONNECT_TIME):
        return Fault.PROXY, text
    return fault, text


def _proxy_target(proxy: str | None) -> Target | None:
    """Where the proxy is; `CannotStart` when its URL says nothing of use."""
    if proxy is None:
        return None
    try:
        parts = urllib.parse.urlsplit(proxy)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in _PROXY_PORTS or not host:
        raise CannotStart("[webhook] proxy has to be a URL such as http://proxy.example.org:3128")
    return Target(parts.scheme, host, port or _PROXY_PORTS[parts.scheme], is_address(host))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
