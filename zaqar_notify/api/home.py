"""What can be found here: the versions of the API, and the resources of this one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify.api.middleware import Access
from zaqar_notify.api.queues import PATCH_TYPE

_VERSIONS = {
    "versions": [
        {
            "id": "2",
            "status": "CURRENT",
            "updated": "2014-9-24T04:06:47Z",
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.messaging-v2+json"}],
            "links": [{"href": "/v2/", "rel": "self"}],
        }
    ]
}

_QUEUE = "/v2/queues/{queue_name}"
_MESSAGE = f"{_QUEUE}/messages/{{message_id}}"
_CLAIM = f"{_QUEUE}/claims/{{claim_id}}"
_DELIVERY = f"{_MESSAGE}/deliveries/{{subscription_id}}"
_SUBSCRIPTION = f"{_QUEUE}/subscriptions/{{subscription_id}}"
_PAGE = "marker,limit"
_FOUND = "state,since,until,exchanges"

# The relations have Zaqar's names where Zaqar has them: clients look them up.
_RESOURCES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rel/home": ("/v2/", ("GET",)),
    "rel/openapi": ("/v2/openapi.json", ("GET",)),
    "rel/ping": ("/v2/ping", ("GET", "HEAD")),
    "rel/health": ("/v2/health", ("GET",)),
    "rel/queues": (f"/v2/queues{{?{_PAGE},detailed,name,with_count}}", ("GET",)),
    "rel/queue": (_QUEUE, ("GET", "PUT", "DELETE", "PATCH")),
    "rel/queue_stats": (f"{_QUEUE}/stats", ("GET",)),
    "rel/queue_share": (f"{_QUEUE}/share", ("POST",)),
    "rel/queue_purge": (f"{_QUEUE}/purge", ("POST",)),
    "rel/messages": (f"{_QUEUE}/messages{{?{_PAGE},echo,include_claimed,include_delayed,ids}}", ("GET",)),
    "rel/post_messages": (f"{_QUEUE}/messages", ("POST",)),
    "rel/messages_delete": (f"{_QUEUE}/messages{{?ids,claim_ids,pop}}", ("DELETE",)),
    "rel/message_get": (_MESSAGE, ("GET",)),
    "rel/message_delete": (f"{_MESSAGE}{{?claim_id}}", ("DELETE",)),
    "rel/message_deliveries": (f"{_MESSAGE}/deliveries{{?{_PAGE},{_FOUND}}}", ("GET",)),
    "rel/delivery": (f"{_DELIVERY}{{?exchanges}}", ("GET",)),
    "rel/delivery_redeliver": (f"{_DELIVERY}/redeliver", ("POST",)),
    "rel/delivery_cancel": (f"{_DELIVERY}/cancel", ("POST",)),
    "rel/claim": (_CLAIM, ("GET",)),
    "rel/post_claim": (f"{_QUEUE}/claims{{?limit}}", ("POST",)),
    "rel/patch_claim": (_CLAIM, ("PATCH",)),
    "rel/delete_claim": (_CLAIM, ("DELETE",)),
    "rel/subscriptions_get": (f"{_QUEUE}/subscriptions{{?{_PAGE}}}", ("GET",)),
    "rel/subscriptions_post": (f"{_QUEUE}/subscriptions", ("POST",)),
    "rel/subscription": (_SUBSCRIPTION, ("GET", "DELETE")),
    "rel/subscription_patch": (_SUBSCRIPTION, ("PATCH",)),
    "rel/subscription_confirm": (f"{_SUBSCRIPTION}/confirm", ("PUT",)),
    "rel/subscription_enable": (f"{_SUBSCRIPTION}/enable", ("POST",)),
    "rel/subscription_ping": (f"{_SUBSCRIPTION}/ping", ("POST",)),
    "rel/subscription_replay": (f"{_SUBSCRIPTION}/replay", ("POST",)),
    "rel/subscription_deliveries": (f"{_SUBSCRIPTION}/deliveries{{?{_PAGE},{_FOUND}}}", ("GET",)),
    "rel/acknowledgement": ("/v2/acknowledgements/{token}", ("POST",)),
    "rel/receipt": ("/v2/receipts/{token}", ("GET", "POST")),
    "rel/unsubscription": ("/v2/unsubscriptions/{token}", ("GET", "POST")),
    "rel/confirmation": ("/v2/confirmations/{token}", ("GET", "POST")),
}


def _resource(template: str, methods: tuple[str, ...]) -> dict[str, Any]:
    """As draft-nottingham-json-home-03 has it."""
    names = [name for group in re.findall(r"\{\??([^}]*)\}", template) for name in group.split(",")]
    target: dict[str, Any] = {"href": template}
    if names:
        target = {"href-template": template, "href-vars": {name: f"param/{name}" for name in names}}
    hints: dict[str, Any] = {"allow": list(methods), "formats": {"application/json": {}}}
    by_link = "{token}" in template
    if "POST" in methods:
        hints["accept-post"] = ["application/x-www-form-urlencoded", "application/json"] if by_link else ["application/json"]
    if "PATCH" in methods:
        hints["accept-patch"] = [PATCH_TYPE if template == _QUEUE else "application/json"]
    return target | {"hints": hints}


_HOME = json.dumps({"resources": {name: _resource(*resource) for name, resource in _RESOURCES.items()}}).encode()


class Versions:
    access = Access.PUBLIC

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = falcon.HTTP_300
        resp.media = _VERSIONS


class Home:
    """Whoever may ask whether the service is there may ask what it has."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "ping:get"}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = _HOME
        resp.content_type = "application/json-home"
        resp.cache_control = ["max-age=86400"]
