"""Messages that are copied from one queue to the next, by real workers on the memory storage."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.flow.case import FlowCase, Scripted, wait_for
from tests.notifiers.test_queue import notifier
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.model import Draft, Message, Priority, State


class QueueTest(FlowCase):
    def setUp(self) -> None:
        super().setUp()
        self.notifier("queue", notifier())
        self.sink = self.notifier("x", Scripted())

    def received(self, queue: str) -> list[Message]:
        return [delivery.message for delivery in self.sink.sent if delivery.message.queue == queue]

    def test_a_copy_is_a_message_of_the_other_queue(self) -> None:
        subscription = self.subscribe("queue:other")
        self.subscribe("x://sink", queue="other")
        draft = Draft(b'{"n": 1}', 3600, {"size": 7}, collapse_key="k", priority=Priority.LOW, language="sv")
        (message,) = self.storage.publish("p", "q", [draft])
        self.worker()
        self.wait_state(message, subscription, State.DELIVERED)
        (copy,) = wait_for(lambda: self.received("other"))
        self.assertEqual((b'{"n": 1}', message), (copy.body_json, copy.parent_id))
        self.assertEqual(("k", Priority.LOW, "sv"), (copy.collapse_key, copy.priority, copy.language))
        self.assertEqual({"size": 7, "copy_source": "q", "copy_message_id": message, "copy_hops": 1}, dict(copy.attributes))
        self.assertTrue(3500 < copy.ttl <= 3600, copy.ttl)

    def test_it_is_of_the_same_project(self) -> None:
        self.subscribe("queue:other", project="a")
        for project in ("a", "b"):
            self.subscribe("x://sink", project=project, queue="other")
        self.publish(project="a")
        self.worker()
        wait_for(lambda: self.sink.sent)
        self.assertEqual(["a"], [delivery.message.project for delivery in self.sink.sent])

    def test_a_circle_ends(self) -> None:
        self.subscribe("queue:b", queue="a")
        back = self.subscribe("queue:a", queue="b")
        self.subscribe("x://sink", queue="a")
        self.subscribe("x://sink", queue="b")
        self.publish(queue="a")
        self.worker()
        wait_for(lambda: len(self.sink.sent) == 6, "the message and five copies")
        hops = [delivery.message.attributes.get("copy_hops", 0) for delivery in self.sink.sent]
        self.assertEqual([0, 1, 2, 3, 4, 5], sorted(hops))
        (last,) = [delivery.message for delivery in self.sink.sent if delivery.message.attributes.get("copy_hops") == 5]
        self.assertEqual("b", last.queue)
        ended = self.wait_state(last.id, back, State.DEAD)
        self.assertIn("form a circle", ended.log[-1].detail)
        self.assertEqual(["a"] * 3 + ["b"] * 3, sorted(delivery.message.queue for delivery in self.sink.sent))

    def test_a_copy_does_not_wait_until_the_worker_looks_for_work(self) -> None:
        self.settings = dataclasses.replace(self.settings, poll_interval=3600.0)
        for here, there in (("q", "a"), ("a", "b"), ("b", "c")):
            self.subscribe(f"queue:{there}", queue=here)
        self.subscribe("x://sink", queue="c")
        self.publish()
        self.worker()
        wait_for(lambda: self.sink.sent)

    def test_nothing_is_copied_twice_when_settling_has_to_be_repeated(self) -> None:
        settle, calls = self.storage.settle, []

        def failing(*arguments: Any) -> int:
            calls.append(arguments)
            if len(calls) < 3:
                raise StorageUnavailable("the disk is full")
            return settle(*arguments)

        self.storage.settle = failing
        self.subscribe("queue:other")
        self.subscribe("x://sink", queue="other")
        self.publish(20)
        self.worker()
        wait_for(lambda: len(self.received("other")) == 20 and not self.storage.depths().outbox)
        self.assertEqual(20, len({message.attributes["copy_message_id"] for message in self.received("other")}))
