"""Consumers of a queue: claiming, popping, deleting.

Who claims or pops marks what is still free among what it has found, and then reads what has its mark: that is one document at a
time and no transaction, so that many consumers of one queue do not undo each other's work. A try whose answer was lost has left
its mark, and the next one finds it.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pymongo import UpdateMany

from zaqar_notify.errors import Forbidden, InvalidRequest
from zaqar_notify.model import Claim, Draft, Message
from zaqar_notify.storage import ids
from zaqar_notify.storage.mongodb import publishing
from zaqar_notify.storage.mongodb.collections import CLAIMS, DELIVERIES, LIVE, MESSAGES, Document, deliveries_of
from zaqar_notify.storage.mongodb.reading import Place

_MOST_ROUNDS = 10
"""So often one claim looks for more messages, when what it found has to go to the dead-letter queue."""
_DEAD_LETTERS_A_ROUND = 100
_MOST_TRIES = 20
"""So often one call looks for messages when others have taken all that it found."""
_MARK_BITS = 63
"""By chance, so that no two have the same, whatever the clocks say."""


# -- popping and deleting ------------------------------------------------------------------------------------------------------


class Popping:
    """One call of `pop_messages`, which may be tried several times."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._mark = secrets.randbits(_MARK_BITS)
        self._asked: dict[int, None] = {}

    def run(self, place: Place) -> list[Message]:
        for _ in range(_MOST_TRIES):
            popped = self._marked(place)
            asked = [] if popped else _consumable(place, self._limit)
            if not asked:
                return popped
            self._asked |= dict.fromkeys(asked)
            _mark(place, asked, {"$set": {"deleted_at": place.now, "claim_id": self._mark}})
        return self._marked(place)

    def _marked(self, place: Place) -> list[Message]:
        if not self._asked:
            return []
        return place.messages({"_id": {"$in": list(self._asked)}, "claim_id": self._mark}, sort=[("_id", 1)])


def _mark(place: Place, asked: Sequence[int], marks: Mapping[str, Any]) -> None:
    """Those that are still free."""
    free = place.live(_id={"$in": list(asked)}, free_at={"$lte": place.now})
    place.scope[MESSAGES].update_many(free, marks, hint="_id_")


def _consumable(place: Place, limit: int) -> list[int]:
    """Those whose delay or claim has ended before those that never had one: both ranges are read in the order of the index."""
    if place.number is None:
        return []
    chosen: list[int] = []
    for free_at, order in (({"$gt": 0.0, "$lte": place.now}, ["free_at", "_id"]), (0.0, ["_id"])):
        if len(chosen) < limit:
            found = place.scope[MESSAGES].find(
                place.live(free_at=free_at),
                ["_id"],
                sort=[(field, 1) for field in order],
                limit=limit - len(chosen),
                hint="ix_messages_queue",
            )
            chosen += (document["_id"] for document in found)
    return chosen


def _read(place: Place, asked: Collection[int]) -> list[Message]:
    """Whatever has become of them."""
    return place.messages({"_id": {"$in": list(asked)}}, sort=[("_id", 1)]) if asked else []


def _delete(place: Place, asked: Collection[int]) -> None:
    if asked:
        place.scope[MESSAGES].update_many({"_id": {"$in": list(asked)}}, {"$set": {"deleted_at": place.now}})


def delete(place: Place, message: int, claim_id: str | None) -> None:
    found = place.messages(place.live(_id=message))
    if not found:
        return
    if claim_id is not None and read_claim(place, claim_id) is None:
        raise InvalidRequest("There is no such claim (any more): leave claim_id out, or claim the message again.")
    if claim_id is not None and found[0].claim_id is None:
        raise InvalidRequest("The message is not claimed: leave claim_id out.")
    if found[0].claim_id != claim_id:
        raise Forbidden("The message is claimed: give the claim_id of its claim.")
    _delete(place, [message])


def delete_several(place: Place, asked: Sequence[int], claim_ids: Collection[str] | None) -> None:
    found = place.messages(place.live(_id={"$in": list(asked)}))
    if not {message.claim_id for message in found}.issuperset(claim_ids or ()):
        raise InvalidRequest("Each of claim_ids has to be the claim of at least one of the messages.")
    _delete(place, [int(message.id, 16) for message in found])


# -- claims --------------------------------------------------------------------------------------------------------------------


class Claiming:
    """One call of `claim`, which may be tried several times. Where `buries` is true it needs a transaction."""

    def __init__(self, limit: int, ttl: int, grace: int) -> None:
        self._limit, self._ttl, self._grace = limit, ttl, grace
        self._number = secrets.randbits(_MARK_BITS)
        self._begun = False

    @staticmethod
    def buries(place: Place) -> bool:
        """Messages of this queue are moved when they were claimed too often."""
        return _dead_letters(place) is not None

    def run(self, place: Place) -> tuple[Claim, list[Message]] | None:
        for _ in range(_MOST_TRIES):
            claimed = self._claimed(place) if self._begun else None
            chosen = [] if claimed else _choose(place, self._limit)
            if not chosen:
                return claimed
            self._begin(place)
            end = place.now + self._ttl
            _mark(place, chosen, {"$set": {"free_at": end, "claim_id": self._number}, "$inc": {"claims": 1}})
        return self._claimed(place)

    def _begin(self, place: Place) -> None:
        """The claim is there before anything refers to it. One that gets nothing is removed when it has expired."""
        claim = {
            "queue_id": place.number,
            "ttl": self._ttl,
            "grace": self._grace,
            "created_at": place.now,
            "expires_at": place.now + self._ttl,
        }
        place.scope[CLAIMS].update_one({"_id": self._number}, {"$set": claim}, upsert=True)
        self._begun = True

    def _claimed(self, place: Place) -> tuple[Claim, list[Message]] | None:
        shown = ids.show(self._number)
        claim = read_claim(place, shown)
        asked = _claimed(place, shown)
        if claim is None or not asked:
            return None
        _prolong(place, asked, claim.expires_at + self._grace)
        return claim, _read(place, asked)


def _choose(place: Place, limit: int) -> list[int]:
    """Free messages, without those that were claimed too often: they are moved."""
    dead_letters = _dead_letters(place)
    if dead_letters is None:
        return _consumable(place, limit)
    chosen: list[int] = []
    for _ in range(_MOST_ROUNDS):
        wanted = limit - len(chosen)
        # What was chosen is still free.
        found = _consumable(place, len(chosen) + max(wanted, _DEAD_LETTERS_A_ROUND))
        kept, moved = dead_letters.sort_out(place, [one for one in found if one not in chosen], wanted)
        chosen += kept
        if not moved or len(chosen) == limit:
            break
    return chosen


def _prolong(place: Place, asked: Collection[int], until: float) -> None:
    """The expiry is never lowered; the ttl stays above the age. What housekeeping has to do before stays due."""
    messages = place.scope[MESSAGES]
    found = messages.find({"_id": {"$in": list(asked)}, "expires_at": {"$lt": until}}, ["_id"]) if asked else []
    prolonged = [document["_id"] for document in found]
    if not prolonged:
        return
    age = {"$toLong": {"$ceil": {"$subtract": [until, "$created_at"]}}}
    look = {"$cond": [{"$lt": ["$prune_at", "$expires_at"]}, "$prune_at", until]}
    longer = {"$set": {"expires_at": until, "prune_at": look, "ttl": {"$max": ["$ttl", age]}}}
    messages.update_many({"_id": {"$in": prolonged}}, [longer])
    # Redeliveries have an expiry of their own.
    own = {"expires_at": {"$lt": until}, "again": 0}
    place.scope[DELIVERIES].bulk_write(
        [UpdateMany({"_id": deliveries_of(message), **own}, {"$set": {"expires_at": until}}) for message in prolonged]
    )


def _live_claim(place: Place, claim_id: str) -> dict[str, Any]:
    return {"_id": ids.parse(claim_id), "queue_id": place.number, "expires_at": {"$gt": place.now}}


def read_claim(place: Place, claim_id: str) -> Claim | None:
    found = place.scope[CLAIMS].find_one(_live_claim(place, claim_id))
    return None if found is None else Claim(claim_id, found["ttl"], found["grace"], found["created_at"])


def claimed_messages(place: Place, claim_id: str) -> list[Message]:
    """Of a claim that `read_claim` has found: those that are still there."""
    return _read(place, _claimed(place, claim_id))


def _of_claim(claim_id: str) -> dict[str, Any]:
    return {"claim_id": ids.parse(claim_id), "deleted_at": LIVE, "free_at": {"$gt": 0.0}}


def _claimed(place: Place, claim_id: str) -> list[int]:
    wanted = {**_of_claim(claim_id), "expires_at": {"$gt": place.now}}
    return [document["_id"] for document in place.scope[MESSAGES].find(wanted, ["_id"], hint="ix_messages_claim")]


def renew(place: Place, claim_id: str, ttl: int, grace: int) -> bool:
    end = place.now + ttl
    renewed = {"ttl": ttl, "grace": grace, "created_at": place.now, "expires_at": end}
    if not place.scope[CLAIMS].update_one(_live_claim(place, claim_id), {"$set": renewed}):
        return False
    _prolong(place, _claimed(place, claim_id), end + grace)
    place.scope[MESSAGES].update_many(_of_claim(claim_id), {"$set": {"free_at": end}}, hint="ix_messages_claim")
    return True


def release(place: Place, claim_id: str) -> None:
    if place.scope[CLAIMS].update_one(_live_claim(place, claim_id), {"$set": {"expires_at": 0.0}}):
        freed = {"$set": {"free_at": 0.0}, "$unset": {"claim_id": ""}}
        place.scope[MESSAGES].update_many(_of_claim(claim_id), freed, hint="ix_messages_claim")


# -- dead letters --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _DeadLetters:
    """Where messages of a queue go that were claimed too often."""

    queue: str
    most_claims: int
    ttl: int | None

    def sort_out(self, place: Place, found: Sequence[int], wanted: int) -> tuple[list[int], int]:
        """At most ``wanted`` of ``found`` that may be claimed, and how many were moved: those that come before.

        One that cannot be decrypted may be claimed: moving would lose it.
        """
        worn = place.messages({"_id": {"$in": list(found)}, "claims": {"$gte": self.most_claims}}) if found else []
        letters = {int(message.id, 16): message for message in worn if not message.sealed}
        kept: list[int] = []
        passed: list[int] = []
        for message in found:
            if len(kept) == wanted:
                break
            (passed if message in letters else kept).append(message)
        self._move(place, [letters[message] for message in passed])
        _delete(place, passed)
        return kept, len(passed)

    def _move(self, place: Place, letters: Sequence[Message]) -> None:
        posts = [publishing.Post(place.project, self.queue, (self._draft(one),), one.client_id) for one in letters]
        publishing.insert(place.scope, posts, place.now, place.means)

    def _draft(self, message: Message) -> Draft:
        return Draft(
            message.body_json,
            self.ttl or message.ttl,
            message.attributes,
            parent_id=message.id,
            collapse_key=message.collapse_key,
            priority=message.priority,
            language=message.language,
        )


def _dead_letters(place: Place) -> _DeadLetters | None:
    found: Document | None = place.found
    if found is None or '"_dead_letter_queue"' not in found["metadata"]:
        return None
    metadata = json.loads(found["metadata"])
    queue, most_claims = metadata.get("_dead_letter_queue"), _positive(metadata.get("_max_claim_count"))
    if most_claims is None or not isinstance(queue, str) or not queue:
        return None
    return _DeadLetters(queue, most_claims, _positive(metadata.get("_dead_letter_queue_messages_ttl")))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
