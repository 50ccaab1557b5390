"""python-zaqarclient over a socket against a service that runs: each call that it has for what this service serves."""

import contextlib
import functools
import itertools
import json
import re
import unittest
import urllib.parse

import requests
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from zaqarclient.queues import client as zaqarclient
from zaqarclient.queues.v2 import core, iterator
from zaqarclient.transport import errors

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.keystone import Keystone
from tests.system.service import Service, wait_for

HEAT_TTL = 220367260800
"""Heat's default for a subscription: seconds until about the year 9000."""


def connect(url, backend, **options):
    return zaqarclient.Client(url=url, version=2, conf={"auth_opts": {"backend": backend, "options": options}})


def holder_of(service, signed):
    """A client that has nothing but a signed URL."""
    options = {name: signed[name] for name in ("paths", "methods", "expires", "signature")}
    return connect(service.url, "signed-url", os_project_id=signed["project"], **options)


def pages(listing):
    """Everything on all pages. The client's own streaming ends only when a page has no link and none follows."""
    return list(listing.stream())


@functools.cache
def running(options):
    """A service for all classes of this module that ask for these options."""
    service = Service(options=options)
    unittest.addModuleCleanup(running.cache_clear)
    unittest.addModuleCleanup(service.close)
    service.start_api()
    return service


class ZaqarClientCase(unittest.TestCase):
    options = ""
    numbers = itertools.count()

    @classmethod
    def setUpClass(cls):
        cls.service = running(cls.options)

    def setUp(self):
        self.project = f"project-{next(self.numbers)}"
        self.client = self.connect(self.project)

    def connect(self, project):
        return connect(self.service.url, "noauth", os_project_id=project)

    def filled(self, *bodies, name="orders", **fields):
        """A queue with messages of somebody else's, so that they are listed."""
        self.connect(self.project).queue(name).post([{"body": body, **fields} for body in bodies])
        return self.client.queue(name)


class ServiceTest(ZaqarClientCase):
    def test_ping(self):
        self.assertTrue(self.client.ping())

    def test_a_ping_of_nothing(self):
        self.assertFalse(connect("http://127.0.0.1:1", "noauth", os_project_id="p").ping())

    def test_the_home_document(self):
        resources = self.client.homedoc()["resources"]
        templates = [resource.get("href-template") or resource.get("href") for resource in resources.values()]
        self.assertIn("/v2/queues", [template.partition("{")[0].rstrip("/") for template in templates])

    def test_health_is_for_admins(self):
        self.assertRaises(errors.ForbiddenError, self.client.health)

    def test_what_is_left_out_is_not_found(self):
        for ask in (self.client.pools, self.client.flavors, self.client.pool("p", auto_create=False).get):
            with self.subTest(ask=ask):
                self.assertRaises(errors.ResourceNotFound, ask)


class QueueTest(ZaqarClientCase):
    def test_created_listed_deleted(self):
        for name in ("b", "a", "c"):
            self.client.queue(name, force_create=True)
        listing, count = self.client.queues()
        self.assertIsInstance(listing, iterator._Iterator)
        self.assertEqual((["a", "b", "c"], None), ([queue.name for queue in listing], count))
        self.client.queue("b").delete()
        self.client.queue("b").delete()
        self.assertEqual(["a", "c"], [queue.name for queue in self.client.queues()[0]])

    def test_pages_end(self):
        names = [f"queue-{number:02}" for number in range(5)]
        for name in names:
            self.client.queue(name, force_create=True)
        for limit in (1, 2, 5):
            with self.subTest(limit=limit):
                self.assertEqual(names, [queue.name for queue in pages(self.client.queues(limit=limit)[0])])
        self.assertEqual(names[3:], [queue.name for queue in self.client.queues(marker="queue-02")[0]])

    def test_one_queue_is_one_page(self):
        self.client.queue("only", force_create=True)
        self.assertEqual(["only"], [queue.name for queue in pages(self.client.queues(limit=1)[0])])

    def test_details_count_and_filters(self):
        self.client.queue("plain", force_create=True)
        self.client.queue("tagged").post({"body": 1})
        self.client.queue("tagged").metadata({"team": "blue"})
        listing, count = self.client.queues(detailed=True, with_count=True)
        metadata = {queue.name: queue._metadata for queue in listing}
        self.assertEqual((2, {"plain", "tagged"}), (count, set(metadata)))
        self.assertEqual(("blue", 3600), (metadata["tagged"]["team"], metadata["tagged"]["_default_message_ttl"]))
        self.assertNotIn("team", metadata["plain"])
        self.assertEqual(["plain"], [queue.name for queue in self.client.queues(name="lai")[0]])
        self.assertEqual(["tagged"], [queue.name for queue in self.client.queues(team="blue")[0]])
        self.assertEqual([], list(self.client.queues(team="red")[0]))

    def test_a_listed_queue_can_be_used(self):
        self.filled("hello")
        (queue,) = self.client.queues()[0]
        self.assertEqual("/v2/queues/orders", queue.href)
        self.assertEqual(["hello"], [message.body for message in queue.messages()])

    def test_it_exists(self):
        self.assertTrue(self.client.queue("orders", force_create=True).exists())

    def test_metadata(self):
        queue = self.client.queue("orders", force_create=True)
        self.assertEqual(3600, queue.metadata()["_default_message_ttl"])
        self.assertEqual(262144, queue.metadata_dict["_max_messages_post_size"])

        # The client replaces and removes names that are shown with their defaults and are not stored.
        changed = queue.metadata({"team": "blue", "_default_message_ttl": 600})
        self.assertEqual(("blue", 600), (changed["team"], changed["_default_message_ttl"]))
        changed = queue.metadata({"team": "red", "colour": [1, {"deep": None}]}, force_reload=True)
        self.assertEqual(
            ("red", [1, {"deep": None}], 3600), (changed["team"], changed["colour"], changed["_default_message_ttl"])
        )
        changed = queue.metadata({}, force_reload=True)
        self.assertEqual(set(), {name for name in changed if not name.startswith("_")})
        again = self.client.queue("orders").metadata()
        self.assertEqual(changed, again)

    def test_metadata_that_is_refused(self):
        queue = self.client.queue("orders", force_create=True)
        self.assertRaises(errors.MalformedRequest, queue.metadata, {"_default_message_ttl": "long"})
        self.assertEqual(3600, queue.metadata(force_reload=True)["_default_message_ttl"])

    def test_stats(self):
        self.assertEqual({"claimed": 0, "free": 0, "total": 0}, self.counts(self.client.queue("orders")))
        queue = self.filled(1, 2, 3)
        queue.claim(ttl=60, grace=60, limit=2)
        self.assertEqual({"claimed": 2, "free": 1, "total": 3}, self.counts(queue))
        (oldest, _, newest) = queue.messages(include_claimed=True)
        shown = queue.stats["messages"]
        self.assertEqual((oldest.id, newest.id), tuple(self.shown_id(shown[which]) for which in ("oldest", "newest")))
        self.assertLessEqual({"age", "ttl", "created", "href"}, set(shown["oldest"]))

    @staticmethod
    def counts(queue):
        return {key: value for key, value in queue.stats["messages"].items() if key in ("claimed", "free", "total")}

    @staticmethod
    def shown_id(shown):
        return shown["href"].rpartition("/")[2].partition("?")[0]

    def test_purge(self):
        queue = self.filled(1, 2)
        subscriptions = [self.client.subscription("orders", subscriber=f"http://127.0.0.1/{n}", ttl=60) for n in range(12)]
        queue.purge(resource_types=["messages"])
        self.assertEqual([], list(queue.messages()))
        self.assertEqual(len(subscriptions), len(pages(queue.subscriptions())))
        queue.purge()
        self.assertEqual([], list(queue.subscriptions()))
        self.assertEqual(["orders"], [queue.name for queue in self.client.queues()[0]])


class MessageTest(ZaqarClientCase):
    def test_post_and_list(self):
        posted = self.client.queue("orders").post([{"body": {"number": 1}, "ttl": 300}, {"body": "two"}])
        self.assertEqual(2, len(posted["resources"]))
        self.assertEqual([], list(self.client.queue("orders").messages()), "the client's own are left out")
        first, second = self.client.queue("orders").messages(echo=True)
        self.assertEqual(posted["resources"], [first.href, second.href])
        self.assertEqual(({"number": 1}, 300, "two", 3600), (first.body, first.ttl, second.body, second.ttl))
        self.assertEqual((None, 0), (first.claim_id, first.claim_count))
        self.assertTrue(first.checksum.startswith("MD5:"))

    def test_one_document(self):
        self.assertEqual(1, len(self.client.queue("orders").post({"body": None, "ttl": 60})["resources"]))

    def test_a_message_by_its_id(self):
        queue = self.filled("one", "two")
        first, second = queue.messages()
        self.assertEqual("two", queue.message(second.id).body)
        self.assertEqual(["one", "two"], [message.body for message in queue.messages(first.id, second.id)])
        self.assertEqual(["two"], [message.body for message in queue.messages(second.id)])
        self.assertRaises(errors.ResourceNotFound, queue.message, "nothing")
        self.assertRaises(errors.ResourceNotFound, queue.messages, "nothing")

    def test_pages(self):
        queue = self.filled(*range(7))
        first = list(queue.messages(limit=3))
        self.assertEqual([0, 1, 2], [message.body for message in first])
        self.assertEqual([3, 4], [message.body for message in queue.messages(limit=2, marker=first[-1].id)])
        self.assertEqual(list(range(7)), [message.body for message in itertools.islice(queue.messages(limit=3).stream(), 7)])

    def test_a_listing_ends(self):
        for number in (6, 7):
            with self.subTest(messages=number):
                queue = self.filled(*range(number), name=f"orders-{number}")
                self.assertEqual(list(range(number)), [message.body for message in pages(queue.messages(limit=3))])

    def test_what_is_refused(self):
        queue = self.client.queue("orders")
        for document in ({"ttl": 60}, {"body": 1, "ttl": 1}, {"body": 1, "ttl": "a day"}, {"body": "x" * 262145}):
            with self.subTest(document=str(document)[:40]):
                self.assertRaises(errors.MalformedRequest, queue.post, document)
        self.assertRaises(errors.MalformedRequest, queue.messages, limit=21)

    def test_delays(self):
        queue = self.filled("later", delay=600)
        self.assertEqual([], list(queue.messages()))
        self.assertIsNone(queue.claim(ttl=60, grace=60).id)
        self.assertEqual(["later"], [message.body for message in queue.messages(include_delayed=True)])

    def test_delete(self):
        queue = self.filled(1, 2, 3, 4)
        messages = list(queue.messages())
        messages[0].delete()
        messages[0].delete()
        self.assertEqual([2, 3, 4], [message.body for message in queue.messages()])
        queue.delete_messages(messages[1].id, messages[3].id)
        self.assertEqual([3], [message.body for message in queue.messages()])

    def test_pop(self):
        queue = self.filled(*range(5))
        self.assertEqual([0], [message.body for message in queue.pop()])
        self.assertEqual([1, 2, 3], [message.body for message in queue.pop(3)])
        self.assertEqual([4], [message.body for message in queue.pop(count=20)])
        self.assertEqual([], list(queue.pop()))
        self.assertRaises(errors.MalformedRequest, queue.pop, 21)

    def test_another_project_sees_nothing(self):
        (message,) = self.filled("secret").messages()
        other = self.connect(f"{self.project}-other").queue("orders")
        self.assertEqual([], list(other.messages(echo=True, include_claimed=True)))
        self.assertRaises(errors.ResourceNotFound, other.message, message.id)
        other.delete_messages(message.id)
        self.assertEqual([], list(other.pop()))
        self.assertEqual([], list(other.client.queues()[0]))
        self.assertEqual("secret", self.client.queue("orders").message(message.id).body)


class ClaimTest(ZaqarClientCase):
    def test_a_consumer(self):
        queue = self.filled(*range(5))
        claim = queue.claim(ttl=120, grace=60, limit=3)
        messages = list(claim)
        self.assertEqual([0, 1, 2], [message.body for message in messages])
        self.assertEqual({claim.id}, {message.claim_id for message in messages})
        self.assertEqual([3, 4], [message.body for message in queue.messages()])
        self.assertEqual(5, len(list(queue.messages(include_claimed=True))))

        messages[0].delete()
        again = queue.claim(id=claim.id)
        self.assertEqual([1, 2], [message.body for message in again])
        self.assertEqual(120, again.ttl)
        self.assertLessEqual(again.age, 60)

        claim.update(ttl=600, grace=90)
        self.assertEqual(600, queue.claim(id=claim.id).ttl)
        claim.delete()
        self.assertEqual([1, 2, 3, 4], [message.body for message in queue.messages()])
        self.assertRaises(errors.ResourceNotFound, list, queue.claim(id=claim.id))
        self.assertRaises(errors.ResourceNotFound, claim.update, ttl=60)

    def test_nothing_to_claim(self):
        claim = self.client.queue("orders").claim(ttl=60, grace=60)
        self.assertEqual((None, []), (claim.id, list(claim)))

    def test_the_client_sends_null_for_what_is_left_out(self):
        claim = self.filled(1).claim()
        self.assertEqual(300, self.client.queue("orders").claim(id=claim.id).ttl)

    def test_a_claimed_message_is_deleted_by_who_claimed_it(self):
        queue = self.filled("work")
        claim = queue.claim(ttl=60, grace=60)
        (message,) = claim
        message.href = message.href.partition("?")[0]
        self.assertRaises(errors.ForbiddenError, message.delete)
        message.href += "?claim_id=another"
        self.assertRaises((errors.ForbiddenError, errors.MalformedRequest), message.delete)
        message.href = f"{message.href.partition('?')[0]}?claim_id={claim.id}"
        message.delete()
        self.assertEqual([], list(queue.messages(include_claimed=True)))

    def test_what_is_refused(self):
        queue = self.filled(1)
        for options in ({"ttl": 1, "grace": 60}, {"ttl": 60, "grace": 1}, {"ttl": 60, "grace": 60, "limit": 21}):
            with self.subTest(options):
                self.assertRaises(errors.MalformedRequest, queue.claim, **options)
        self.assertEqual(1, len(list(queue.messages())))

    def test_another_project_knows_no_claim(self):
        claim = self.filled("work").claim(ttl=60, grace=60)
        other = self.connect(f"{self.project}-other").queue("orders").claim(id=claim.id)
        self.assertRaises(errors.ResourceNotFound, list, other)
        self.assertRaises(errors.ResourceNotFound, other.update, ttl=600)
        other.delete()
        self.assertEqual(1, len(list(self.client.queue("orders").claim(id=claim.id))))

    def test_claimed_too_often(self):
        # Of names that are shown as null, Queue.metadata() would add the value and then remove it.
        request, transport = self.client._request_and_transport()
        core.queue_create(transport, request, "orders", {"_max_claim_count": 2, "_dead_letter_queue": "graveyard"})
        queue = self.filled("poison")
        for _ in range(2):
            claim = queue.claim(ttl=60, grace=60)
            self.assertEqual(["poison"], [message.body for message in claim])
            claim.delete()
        self.assertIsNone(queue.claim(ttl=60, grace=60).id)
        self.assertEqual(["poison"], [message.body for message in self.client.queue("graveyard").messages(echo=True)])


class SubscriptionTest(ZaqarClientCase):
    def test_its_life(self):
        subscription = self.client.subscription(
            "orders", subscriber="http://127.0.0.1:9/hook", ttl=3600, options={"post_headers": {"X-Team": "blue"}}
        )
        self.assertEqual((3600, False), (subscription.ttl, subscription.confirmed))
        self.assertEqual({"X-Team": "blue"}, subscription.options["post_headers"])
        self.assertLessEqual(subscription.age, 60)

        (listed,) = self.client.queue("orders").subscriptions()
        self.assertEqual((subscription.id, "orders"), (listed.id, listed.queue_name))
        read = self.client.subscription("orders", id=subscription.id)
        self.assertEqual("http://127.0.0.1:9/hook", read.subscriber)

        subscription.update({"ttl": 600, "subscriber": "http://127.0.0.1:9/other"})
        read = self.client.subscription("orders", id=subscription.id)
        self.assertEqual((600, "http://127.0.0.1:9/other"), (read.ttl, read.subscriber))
        subscription.delete()
        subscription.delete()
        self.assertRaises(errors.ResourceNotFound, self.client.subscription, "orders", id=subscription.id)
        self.assertEqual([], list(self.client.subscriptions("orders")))

    def test_pages(self):
        made = {self.client.subscription("orders", subscriber=f"http://127.0.0.1:9/{n}", ttl=60).id for n in range(5)}
        listing = self.client.subscriptions("orders", limit=2)
        self.assertEqual(made, {subscription.id for subscription in pages(listing)})

    def test_the_same_again_replaces(self):
        first = self.client.subscription("orders", subscriber="http://127.0.0.1:9/", ttl=60)
        again = self.client.subscription("orders", subscriber="http://127.0.0.1:9/", ttl=120)
        self.assertEqual((first.id, 120), (again.id, again.ttl))

    def test_what_is_refused(self):
        for subscriber, ttl in (
            ("gopher://127.0.0.1/", 60),
            ("http://", 60),
            ("http://127.0.0.1/", 59),
            ("trust+http://127.0.0.1/", 60),
        ):
            with self.subTest(subscriber=subscriber, ttl=ttl):
                self.assertRaises(errors.MalformedRequest, self.client.subscription, "orders", subscriber=subscriber, ttl=ttl)

    def test_another_project_sees_none(self):
        subscription = self.client.subscription("orders", subscriber="http://127.0.0.1:9/", ttl=60)
        other = self.connect(f"{self.project}-other")
        self.assertEqual([], list(other.subscriptions("orders")))
        self.assertRaises(errors.ResourceNotFound, other.subscription, "orders", id=subscription.id)
        self.assertEqual(1, len(list(self.client.subscriptions("orders"))))

    def test_a_notification_arrives_as_zaqar_sends_it(self):
        endpoint = Endpoint()
        worker = self.service.start("worker")
        self.addCleanup(self.service.kill, worker)
        with Endpoints(endpoint):
            self.client.subscription("orders", subscriber=endpoint.url, ttl=600)
            self.client.queue("orders").post({"body": {"number": 7}, "ttl": 300})
            wait_for(lambda: endpoint.arrivals, "the notification")
        notification = json.loads(endpoint.arrivals[0].body)
        self.assertEqual(({"number": 7}, 300), (notification["body"], notification["ttl"]))
        self.assertEqual(("Notification", "orders"), (notification["Message_Type"], notification["queue_name"]))


class SignedUrlTest(ZaqarClientCase):
    def holder(self, signed):
        return holder_of(self.service, signed)

    def test_reading(self):
        self.filled("shared")
        signed = self.client.queue("orders").signed_url()
        self.assertEqual((["/v2/queues/orders/messages"], ["GET"]), (signed["paths"], signed["methods"]))
        self.assertEqual(self.project, signed["project"])
        queue = self.holder(signed).queue("orders")
        (message,) = queue.messages()
        self.assertEqual("shared", message.body)
        self.assertEqual("shared", queue.message(message.id).body)
        self.assertRefused(queue.post, {"body": 1})
        self.assertRefused(queue.pop)
        self.assertRefused(queue.claim, ttl=60, grace=60)
        self.assertRefused(queue.subscriptions)
        self.assertRefused(queue.delete)
        self.assertRefused(self.holder(signed).queue("orders2").messages)

    def assertRefused(self, call, *args, **options):
        self.assertRaises((errors.ForbiddenError, errors.ResourceNotFound, errors.UnauthorizedError), call, *args, **options)

    def test_a_consumer(self):
        self.filled("work")
        signed = self.client.queue("orders").signed_url(
            paths=["messages", "claims"], ttl_seconds=600, methods=["GET", "POST", "PATCH", "DELETE"]
        )
        queue = self.holder(signed).queue("orders")
        claim = queue.claim(ttl=60, grace=60)
        (message,) = claim
        claim.update(ttl=120)
        message.delete()
        claim.delete()
        queue.post({"body": "done"})
        self.assertEqual(["done"], [message.body for message in self.client.queue("orders").messages()])

    def test_subscribing(self):
        signed = self.client.queue("orders").signed_url(paths=["subscriptions"], methods=["GET", "POST", "PATCH", "DELETE"])
        holder = self.holder(signed)
        subscription = holder.subscription("orders", subscriber="http://127.0.0.1:9/", ttl=60)
        subscription.update({"ttl": 120})
        self.assertEqual([120], [listed.ttl for listed in self.client.subscriptions("orders")])
        subscription.delete()

    def test_what_was_changed_is_refused(self):
        self.filled("secret", name="other")
        signed = self.client.queue("orders").signed_url()
        changes = (
            {"paths": ["/v2/queues/other/messages"]},
            {"methods": ["GET", "POST"]},
            {"expires": "2999-01-01T00:00:00"},
            {"project": f"{self.project}-other"},
            {"signature": "0" * 64},
        )
        for change in changes:
            with self.subTest(change):
                queue = self.holder(signed | change).queue("other" if "paths" in change else "orders")
                self.assertRefused(queue.messages)

    def test_what_is_refused(self):
        queue = self.client.queue("orders")
        self.assertRaises(errors.MalformedRequest, queue.signed_url, ttl_seconds=-1)
        self.assertRaises(errors.MalformedRequest, queue.signed_url, paths=["secrets"])


class HeatTest(ZaqarClientCase):
    """The calls of OS::Zaqar::Queue, SignedQueueURL, Subscription and MistralTrigger, and of Heat's event sinks."""

    def test_a_queue(self):
        queue = self.client.queue("stack-queue", auto_create=False)
        self.assertIn("_default_message_ttl", queue.metadata())
        self.client.queue("stack-queue", auto_create=False).delete()

    def test_a_queue_with_metadata(self):
        """Heat never makes the queue: its metadata is not found before somebody else has, as with Zaqar."""
        missing = self.client.queue("stack-queue", auto_create=False)
        self.assertRaises(errors.ResourceNotFound, missing.metadata, new_meta={"team": "blue"})
        missing.post({"body": 1})
        self.client.queue("stack-queue", auto_create=False).metadata(new_meta={"team": "blue"})
        self.client.queue("stack-queue", auto_create=False).metadata(new_meta={"team": "red", "size": 1})
        metadata = self.client.queue("stack-queue", auto_create=False).metadata()
        self.assertEqual(("red", 1), (metadata["team"], metadata["size"]))

    def test_a_signed_url_with_nothing_chosen(self):
        # Heat makes empty lists of properties that a template leaves out.
        signed = self.client.queue("stack-queue").signed_url(paths=[], methods=[], ttl_seconds=None)
        self.assertEqual((["/v2/queues/stack-queue/messages"], ["GET"]), (signed["paths"], signed["methods"]))

    def test_a_signed_url_in_a_query(self):
        """Heat hands it on as a query; Aodh makes a client of that and posts its alarms."""
        signed = self.client.queue("stack-queue").signed_url(paths=["messages"], methods=["GET", "POST"], ttl_seconds=3600)
        query = (
            f"signature={signed['signature']}&expires={signed['expires']}&paths={','.join(signed['paths'])}"
            f"&methods={','.join(signed['methods'])}&project_id={signed['project']}&queue_name=stack-queue"
        )
        told = {name: values[0] for name, values in urllib.parse.parse_qs(query).items()}
        aodh = connect(
            self.service.url,
            "signed-url",
            signature=told["signature"],
            expires=told["expires"],
            methods=told["methods"].split(","),
            paths=told["paths"].split(","),
            os_project_id=told["project_id"],
        )
        aodh.queue(told["queue_name"]).post({"body": {"alarm": "hot"}})
        self.assertEqual([{"alarm": "hot"}], [message.body for message in self.client.queue("stack-queue").messages()])

    def test_a_subscription(self):
        data = {"subscriber": "http://127.0.0.1:9/heat", "ttl": HEAT_TTL, "options": {}}
        made = self.client.subscription("stack-queue", **data)
        self.assertEqual(HEAT_TTL, made.ttl)
        update = self.client.subscription("stack-queue", id=made.id, auto_create=False)
        update.update(data | {"subscriber": "http://127.0.0.1:9/other", "options": {"post_data": '{"a": "$zaqar_message$"}'}})
        (listed,) = self.client.subscriptions("stack-queue")
        self.assertEqual(("http://127.0.0.1:9/other", HEAT_TTL), (listed.subscriber, listed.ttl))
        self.client.subscription("stack-queue", id=made.id, auto_create=False).delete()

    def test_a_trigger_of_mistral_needs_a_trust(self):
        self.assertRaisesRegex(
            errors.MalformedRequest,
            "trust",
            self.client.subscription,
            "stack-queue",
            subscriber="trust+http://127.0.0.1:8989/v2/executions",
            ttl=HEAT_TTL,
            options={"post_data": "{}"},
        )

    def test_an_event_sink(self):
        self.client.queue("events", auto_create=False).post({"body": {"type": "os.heat.event"}, "ttl": 3600})
        self.assertEqual(1, self.client.queue("events").stats["messages"]["free"])


class MistralTest(ZaqarClientCase):
    """The actions zaqar.queue_messages, queue_post, queue_pop, claim_messages and delete_messages."""

    def test_the_actions(self):
        self.client.queue("jobs").post([{"body": number} for number in range(4)])
        other = self.connect(self.project)
        self.assertEqual([0, 1], [message.body for message in other.queue("jobs").messages(limit=2)])
        self.assertEqual([0], [message.body for message in other.queue("jobs").pop(1)])
        claimed = list(other.queue("jobs").claim(ttl=60, grace=60, limit=1))
        left = list(other.queue("jobs").messages())
        other.queue("jobs").delete_messages(*[message.id for message in left])
        self.assertEqual(([1], [2, 3]), ([message.body for message in claimed], [message.body for message in left]))
        self.assertEqual({"claimed": 1, "free": 0, "total": 1}, QueueTest.counts(other.queue("jobs")))


class ApiKeyTest(ZaqarClientCase):
    """A key is sent as a token is: the client's keystone backend puts ``os_auth_token`` into X-Auth-Token, and asks no Keystone
    when it is given the URL of the service."""

    options = "[auth]\nstrategy = apikey\nkey_cache = 1\n"
    keys: dict[tuple[str, str], str]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        wanted = [("mine", "read,publish,subscribe,admin"), ("mine", "read"), ("another", "admin")]
        cls.keys = {(project, roles): cls.make_key(project, roles) for project, roles in wanted}

    @classmethod
    def make_key(cls, project, roles):
        printed = cls.service.run("key", "create", "--project", project, "--roles", roles)
        return re.search(r"zn_[0-9A-Za-z]+_[0-9A-Za-z_-]+", printed)[0]

    def setUp(self):
        self.client = self.connect("mine", "read,publish,subscribe,admin")
        self.name = f"orders-{next(self.numbers)}"
        self.queue = self.client.queue(self.name)

    def connect(self, project, roles):
        return connect(self.service.url, "keystone", os_auth_token=self.keys[project, roles])

    def test_the_day_of_a_client(self):
        self.assertTrue(self.client.ping())
        queue = self.client.queue(self.name, force_create=True)
        queue.metadata({"team": "blue"})
        queue.post([{"body": 1}, {"body": 2}])
        claim = queue.claim(ttl=60, grace=60, limit=1)
        for message in claim:
            message.delete()
        self.assertEqual([2], [message.body for message in queue.messages(echo=True)])
        subscription = self.client.subscription(self.name, subscriber="http://127.0.0.1:9/", ttl=60)
        self.assertEqual([subscription.id], [listed.id for listed in queue.subscriptions()])
        self.assertEqual(1, queue.stats["messages"]["total"])
        self.assertIn(self.name, [queue.name for queue in pages(self.client.queues()[0])])
        self.assertTrue(self.client.health()["storage_reachable"])
        holder = holder_of(self.service, queue.signed_url())
        self.assertEqual([2], [message.body for message in holder.queue(self.name).messages()])
        queue.delete()

    def test_the_project_may_be_said_but_must_match(self):
        key = self.keys["mine", "read"]
        connect(self.service.url, "keystone", os_auth_token=key, os_project_id="mine").queues()
        foreign = connect(self.service.url, "keystone", os_auth_token=key, os_project_id="another")
        self.assertRaises(errors.ForbiddenError, foreign.queues)

    def test_a_key_that_may_only_read(self):
        self.queue.post({"body": 1})
        reader = self.connect("mine", "read").queue(self.name)
        self.assertEqual(1, len(list(reader.messages())))
        self.assertRaises(errors.ForbiddenError, reader.post, {"body": 2})
        self.assertRaises(errors.ForbiddenError, reader.pop)
        self.assertRaises(errors.ForbiddenError, reader.client.subscription, self.name, subscriber="http://127.0.0.1:9/")
        self.assertRaises(errors.ForbiddenError, reader.client.health)

    def test_another_projects_key_sees_nothing(self):
        self.queue.post({"body": "secret"})
        other = self.connect("another", "admin")
        self.assertEqual([], list(other.queues()[0]))
        self.assertEqual([], list(other.queue(self.name).messages(echo=True)))

    def test_no_key_and_a_false_one(self):
        anonymous = connect(self.service.url, "noauth", os_project_id="mine")
        self.assertRaises(errors.UnauthorizedError, anonymous.queues)
        key = self.keys["mine", "read"]
        false = key[:-1] + ("0" if key[-1] != "0" else "1")
        self.assertRaises(errors.UnauthorizedError, connect(self.service.url, "keystone", os_auth_token=false).queues)

    def test_a_revoked_key(self):
        key = self.make_key("mine", "read")
        client = connect(self.service.url, "keystone", os_auth_token=key)
        client.queues()
        self.service.run("key", "revoke", key.split("_")[1])
        wait_for(lambda: self.is_refused(client), "the end of what the process remembers of the key")

    @staticmethod
    def is_refused(client):
        try:
            client.queues()
        except errors.UnauthorizedError:
            return True
        return False


class KeystoneTest(ZaqarClientCase):
    """As Heat and Mistral come: a token of Keystone, or a session that gets one."""

    @classmethod
    def setUpClass(cls):
        cls.keystone = Keystone(cls.addClassCleanup)
        cls.service = Service(options=cls.keystone.options)
        cls.addClassCleanup(cls.service.close)
        cls.keystone.messaging = cls.service.url
        cls.service.start_api()

    def connect(self, project):
        return connect(
            self.service.url,
            "keystone",
            os_auth_token=self.keystone.issue(project),
            os_auth_url=self.keystone.url,
            os_project_id=project,
            os_service_type="messaging",
        )

    def test_with_a_token(self):
        queue = self.filled(1, 2)
        self.assertEqual([1, 2], [message.body for message in queue.messages()])
        self.assertEqual([1], [message.body for message in queue.claim(ttl=60, grace=60, limit=1)])
        self.assertRaises(errors.ForbiddenError, self.client.health)

    def test_with_credentials(self):
        """The client asks Keystone for a token and for the service's URL."""
        options = {
            "os_username": "alice",
            "os_password": "anything",
            "os_project_name": self.project,
            "os_auth_url": f"{self.keystone.url}/v3",
            "os_user_domain_id": "default",
            "os_project_domain_id": "default",
        }
        client = zaqarclient.Client(version=2, conf={"auth_opts": {"backend": "keystone", "options": options}})
        client.queue("orders").post({"body": "mine"})
        self.assertEqual(["mine"], [message.body for message in self.client.queue("orders").messages()])

    def test_with_a_session(self):
        """As Mistral comes."""
        auth = v3.Token(f"{self.keystone.url}/v3", token=self.keystone.issue(self.project), project_id=self.project)
        with contextlib.closing(requests.Session()) as connections:
            session = keystone_session.Session(auth=auth, session=connections)
            # It sends no project: the token says which.
            client = zaqarclient.Client(version=2, url=self.service.url, session=session)
            client.queue("orders").post({"body": "mine"})
        self.assertEqual(["mine"], [message.body for message in self.client.queue("orders").messages()])

    def test_another_projects_token(self):
        self.filled("secret")
        other = self.connect(f"{self.project}-other")
        self.assertEqual([], list(other.queues()[0]))
        self.assertEqual([], list(other.queue("orders").messages(echo=True)))

    def test_the_project_is_the_tokens(self):
        self.filled("secret")
        token = self.keystone.issue(f"{self.project}-other")
        liar = connect(self.service.url, "keystone", os_auth_token=token, os_project_id=self.project)
        with contextlib.suppress(errors.ForbiddenError):
            self.assertEqual([], list(liar.queue("orders").messages(echo=True)))

    def test_tokens_that_are_none(self):
        for token in ("nonsense", self.keystone.issue(self.project, ttl=-1)):
            with self.subTest(token=token):
                client = connect(self.service.url, "keystone", os_auth_token=token, os_project_id=self.project)
                self.assertRaises(errors.UnauthorizedError, client.queues)
        anonymous = connect(self.service.url, "noauth", os_project_id=self.project)
        self.assertRaises(errors.UnauthorizedError, anonymous.queues)

    def test_an_admin_asks_for_the_health(self):
        self.keystone.roles["root"] = ("admin",)
        token = self.keystone.issue(self.project, user="root")
        admin = connect(self.service.url, "keystone", os_auth_token=token, os_project_id=self.project)
        self.assertTrue(admin.health()["storage_reachable"])

    def test_a_signed_url_needs_no_token(self):
        self.filled("shared")
        signed = self.client.queue("orders").signed_url()
        holder = holder_of(self.service, signed)
        self.assertEqual(["shared"], [message.body for message in holder.queue("orders").messages()])
