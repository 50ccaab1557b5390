"""This service as an extension of somebody's queue service: a falcon.App that has its own ``/v2/queues/<name>/messages``.

The app keeps its messages. It gets the resources of subscriptions and deliveries, and a middleware that makes notifications of
what is posted to it successfully.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from wsgiref.types import WSGIApplication

import falcon

from zaqar_notify import validation
from zaqar_notify.api import feedback
from zaqar_notify.api.body import read_body
from zaqar_notify.api.identity import Caller, Identity
from zaqar_notify.errors import InvalidRequest, NotifyError, StorageUnavailable, Unauthorized
from zaqar_notify.model import Draft
from zaqar_notify.storage.base import Storage

LOG = logging.getLogger(__name__)

App = falcon.App[falcon.Request, falcon.Response]
MessageIds = Callable[[falcon.Response], Sequence[str] | None]
Project = Callable[[falcon.Request], str | None]

HELD_FOR = 30.0
IDS_HEADER = "zaqar-notify-message-ids"
MOST_IDS_IN_HEADER = 200
"""Servers and clients read headers of a few KiB."""

_MESSAGES = "/v2/queues/{queue}/messages"
_SUBSCRIPTIONS = "/v2/queues/{queue}/subscriptions"
TEMPLATES = (
    _SUBSCRIPTIONS,
    f"{_SUBSCRIPTIONS}/{{subscription_id}}",
    f"{_SUBSCRIPTIONS}/{{subscription_id}}/confirm",
    f"{_SUBSCRIPTIONS}/{{subscription_id}}/enable",
    f"{_SUBSCRIPTIONS}/{{subscription_id}}/ping",
    f"{_SUBSCRIPTIONS}/{{subscription_id}}/deliveries",
    f"{_SUBSCRIPTIONS}/{{subscription_id}}/replay",
    f"{_MESSAGES}/{{message_id}}/deliveries",
    f"{_MESSAGES}/{{message_id}}/deliveries/{{subscription_id}}",
    f"{_MESSAGES}/{{message_id}}/deliveries/{{subscription_id}}/redeliver",
    f"{_MESSAGES}/{{message_id}}/deliveries/{{subscription_id}}/cancel",
)
"""The routes that are added; the names of the first two fields follow those of the app. The links in notifications
(`feedback.TEMPLATES`) are added as they are."""

_FIELD = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_FOREIGN_ID = re.compile(r"[!-~]{1,255}")

# Entries of the WSGI environment, which no client can write.
_HELD = "zaqar_notify.held"
_VOUCHED = "zaqar_notify.project"


@dataclasses.dataclass(frozen=True, slots=True)
class NotificationService:
    """What `mount` adds to an app: `zaqar_notify.bootstrap.build_service` makes it."""

    storage: Storage
    limits: validation.Limits
    wake: Callable[[], None]
    """Called after each publishing."""
    make_api: Callable[[Identity | None], WSGIApplication]
    """Makes the whole API, where callers are identified by this, or by None as ``[auth] strategy`` says."""
    published: Callable[[int], None] = lambda count: None
    """Counts messages that were published."""


def mount(
    app: App,
    service: NotificationService,
    queue_field: str = "queue_name",
    message_field: str = "message_id",
    *,
    message_ids: MessageIds | None = None,
    project: Project | None = None,
    held_for: float = HELD_FOR,
    strict: bool = True,
) -> None:
    """Add notifications to ``app``, which has its routes for messages already.

    ``queue_field`` and ``message_field`` are the names that the app's URI templates give to a queue's name and a message's id.
    ``message_ids`` takes the ids of the messages, in the order in which they were posted, out of the app's answer; without it
    they are read from the answer's ``resources``. ``project`` names the project of a request's sender, whom the app has
    authenticated; without it the header X-Project-ID says whose queue a message is posted to, and the other resources
    authenticate their callers as ``[auth] strategy`` says. What is held when the process dies is sent after ``held_for``
    seconds. A document that is not understood is answered with 400; without ``strict`` the app gets it, and nobody is notified
    of it.

    Raises `TypeError` for anything but a WSGI app, and `ValueError` where the routes of the app do not fit.
    """
    _check_kind(app)
    if held_for <= 0:
        raise ValueError(f"held_for has to be more than 0 seconds, and is {held_for}.")
    fields = _fit(app, {"queue": queue_field, "message_id": message_field})
    messages = _MESSAGES.replace("{queue}", fields["queue"])
    app.add_middleware(
        _Publishing(
            service,
            messages,
            message_ids=message_ids or _ids_in_answer,
            project=project,
            held_for=held_for,
            strict=strict,
        )
    )
    forwarding = _Forwarding(service.make_api(None if project is None else _Vouched()), project)
    for template in TEMPLATES:
        app.add_route(_named(template, fields), forwarding)
    # Whoever follows a link is nobody that the app knows.
    by_link = _Forwarding(forwarding.api, None)
    for template in feedback.TEMPLATES:
        app.add_route(template, by_link)


# -- does it fit? -------------------------------------------------------------------------------------------------------------


def _check_kind(app: object) -> None:
    import falcon.asgi  # some MB that only this needs

    if isinstance(app, falcon.asgi.App):
        raise TypeError(
            "mount() needs a falcon.App (WSGI), and this is a falcon.asgi.App: the resources that it adds are not coroutines. "
            "Run the queue's API as a falcon.App, or run 'zaqar-notify api' beside it and post each message there too."
        )
    if not isinstance(app, falcon.App):
        raise TypeError(f"mount() needs a falcon.App, and this is {type(app).__module__}.{type(app).__qualname__}.")


def _fit(app: App, names: Mapping[str, str]) -> dict[str, str]:
    """The segments, such as ``{queue_name}``, that stand in the app's templates for our fields."""
    import falcon.inspect

    posts = {
        route.path: any(method.method == "POST" and not method.internal for method in route.methods)
        for route in falcon.inspect.inspect_routes(app)
    }
    fields = {
        "queue": _segment(posts, ("v2", "queues"), names["queue"], "queue_field"),
        "message_id": _segment(posts, ("v2", "queues", None, "messages"), names["message_id"], "message_field"),
    }
    messages = _named(_MESSAGES, fields)
    if not posts.get(messages):
        raise ValueError(f"The app has no route for POST {messages}: add the queue's own routes before mount().")
    taken = {_FIELD.sub("{}", path): path for path in posts}
    for template in (*TEMPLATES, *feedback.TEMPLATES):
        if (path := taken.get(_FIELD.sub("{}", template))) is not None:
            raise ValueError(f"The app has the route {path} already: nothing else can be mounted there.")
    return fields


def _segment(paths: Iterable[str], before: Sequence[str | None], name: str, argument: str) -> str:
    """The segment behind ``before`` (None: any) as the app's templates write it, which may name a converter."""
    segment = f"{{{name}}}"
    if not _FIELD.fullmatch(segment):
        raise ValueError(f"{argument} has to be a field's name, and is {name!r}.")
    for path in paths:
        segments = path.strip("/").split("/")
        if len(segments) <= len(before) or any(
            wanted not in (None, have) for wanted, have in zip(before, segments, strict=False)
        ):
            continue
        field = _FIELD.fullmatch(segments[len(before)])
        if field is None:
            continue
        if field[1] != name:
            raise ValueError(
                f"The app's route {path} has the field {field[1]!r} where mount() was told {name!r}, and Falcon wants one name "
                f"for each position: call mount(..., {argument}={field[1]!r})."
            )
        segment = field[0]
    return segment


def _named(template: str, fields: Mapping[str, str]) -> str:
    return template.replace("{queue}", fields["queue"]).replace("{message_id}", fields["message_id"])


# -- subscriptions and deliveries ----------------------------------------------------------------------------------------------


class _Forwarding:
    """Has the API answer. So the rules, checks and errors of its routes are the API's own, and act nowhere else in the app."""

    def __init__(self, api: WSGIApplication, project: Project | None) -> None:
        self.api = api
        self._project = project

    def _forward(self, req: falcon.Request, resp: falcon.Response, **fields: object) -> None:
        # The path as the app's router has seen it, which may differ from what the server has put there.
        environ = {**req.env, "PATH_INFO": req.path.encode().decode("latin-1")}
        if self._project is not None:
            environ[_VOUCHED] = self._project(req)
        status, headers, body = _call(self.api, environ)
        resp.status = status
        resp.set_headers(headers)
        resp.data = body

    # OPTIONS stays Falcon's and the app's own: browsers ask by it, without any of our headers, what the app allows them.
    on_get = on_head = on_post = on_put = on_patch = on_delete = _forward


class _Vouched:
    """The app in front has authenticated the caller."""

    challenge = None

    def identify(self, req: falcon.Request) -> Caller:
        project: str | None = req.env[_VOUCHED]
        if project is None or not project.strip():
            raise Unauthorized("This request is not known to come from any project.")
        validation.check_project(project)
        return Caller(project, "application")


def _call(api: WSGIApplication, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        started.append((status, headers))
        return written.write

    written = io.BytesIO()
    chunks = api(environ, start_response)
    try:
        written.writelines(chunks)
    finally:
        if (close := getattr(chunks, "close", None)) is not None:
            close()
    return *started[-1], written.getvalue()


# -- posting -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    project: str
    queue: str
    ids: Sequence[str]
    body: io.BytesIO


class _Publishing:
    """Holds the notifications of a POST before the app's resource runs, and releases or drops them when it has answered."""

    def __init__(
        self,
        service: NotificationService,
        template: str,
        *,
        message_ids: MessageIds,
        project: Project | None,
        held_for: float,
        strict: bool,
    ) -> None:
        self._service = service
        self._template = template
        self._message_ids = message_ids
        self._project = project
        self._held_for = held_for
        self._strict = strict

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]) -> None:
        if req.method != "POST" or req.uri_template != self._template:
            return
        try:
            self._hold(req)
        except NotifyError as error:
            _refuse(resp, error)

    def _hold(self, req: falcon.Request) -> None:
        limit = self._service.limits.max_messages_post_size
        raw = read_body(req, limit, "The request")
        body = _put_back(req, raw)
        try:
            project = self._project_of(req)
            # As the router takes the path apart: a target may begin with more than one slash.
            queue = req.path.lstrip("/").split("/")[2]
            validation.check_queue_name(queue)
            drafts = self._drafts(raw, req.get_header("traceparent"))
        except InvalidRequest as error:
            if self._strict:
                raise
            LOG.warning("POST %r is passed on, and nobody is notified of it: %s", req.path, error)
            return
        ids = self._service.storage.hold(project, queue, drafts, _client_id(req), self._held_for)
        req.env[_HELD] = _Held(project, queue, ids, body)

    def _project_of(self, req: falcon.Request) -> str:
        project = req.get_header("X-Project-ID") if self._project is None else self._project(req)
        if project is None or not project.strip():
            raise InvalidRequest("The request names no project, as the X-Project-ID header does.")
        validation.check_project(project)
        return project

    def _drafts(self, raw: bytes, traceparent: str | None) -> list[Draft]:
        limits = self._service.limits
        document = validation.parse_json(raw, limits.max_messages_post_size, "The request")
        ttl, delay = limits.default_message_ttl, limits.default_message_delay
        return validation.messages(document, default_ttl=ttl, default_delay=delay, limits=limits, traceparent=traceparent)

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool) -> None:
        held: _Held | None = req.env.pop(_HELD, None)
        if held is None:
            return
        # Whatever becomes of it here, the app has done what its answer says. What stays held comes due by itself.
        if _accepted(resp, held):
            self._release(resp, held)
        else:
            self._drop(held)

    def _release(self, resp: falcon.Response, held: _Held) -> None:
        foreign_ids = _usable(self._message_ids(resp), len(held.ids))
        try:
            self._service.storage.release(held.project, held.queue, held.ids, foreign_ids)
        except StorageUnavailable as error:
            LOG.warning("%d notifications are late by up to %g s: %s", len(held.ids), self._held_for, error)
            foreign_ids = None
        if foreign_ids is None:
            resp.set_header(IDS_HEADER, ",".join(held.ids[:MOST_IDS_IN_HEADER]))
        self._service.published(len(held.ids))
        self._service.wake()

    def _drop(self, held: _Held) -> None:
        try:
            self._service.storage.drop(held.project, held.queue, held.ids)
        except StorageUnavailable as error:
            LOG.warning("%d notifications of what was not accepted could not be dropped: %s", len(held.ids), error)


def _put_back(req: falcon.Request, raw: bytes) -> io.BytesIO:
    """The app's resource reads the body as if nobody had."""
    body = io.BytesIO(raw)
    req.stream = req.env["wsgi.input"] = body
    req.env["CONTENT_LENGTH"] = str(len(raw))
    return body


def _client_id(req: falcon.Request) -> str | None:
    client_id = req.get_header("Client-ID")
    return client_id if client_id is not None and len(client_id) <= validation.MAX_CLIENT_ID else None


def _refuse(resp: falcon.Response, error: NotifyError) -> None:
    """Answer in the place of the app's resource, and of its error handlers."""
    resp.status = falcon.code_to_http_status(error.status)
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps({"title": error.title, "description": str(error)}).encode()
    if isinstance(error, StorageUnavailable):
        resp.set_header("Retry-After", "1")
    resp.complete = True


def _accepted(resp: falcon.Response, held: _Held) -> bool:
    # Another middleware may have answered in the resource's place, out of a cache for example: nothing was posted then.
    return 200 <= resp.status_code < 300 and not (resp.complete and held.body.tell() == 0)


# -- foreign ids ---------------------------------------------------------------------------------------------------------------


def _ids_in_answer(resp: falcon.Response) -> list[str] | None:
    """The last segments of the paths in the answer's ``resources``."""
    document = _document(resp)
    resources = document.get("resources") if isinstance(document, dict) else None
    if not isinstance(resources, list) or not all(isinstance(href, str) for href in resources):
        return None
    return [_last_segment(href) for href in resources]


def _document(resp: falcon.Response) -> Any:
    # In the order in which Falcon looks for what it sends.
    text = resp.text if resp.text is not None else resp.data
    if text is None:
        return resp.media
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _last_segment(href: str) -> str:
    path = re.split("[?#]", href, maxsplit=1)[0]
    return urllib.parse.unquote(path.rstrip("/").rpartition("/")[2])


def _usable(ids: Sequence[str] | None, count: int) -> list[str] | None:
    """None unless there is one for each message, all different, and such that a header can hold them."""
    if ids is None or len(ids) != count or len(set(ids)) != count:
        return None
    return list(ids) if all(_FOREIGN_ID.fullmatch(one) for one in ids) else None
