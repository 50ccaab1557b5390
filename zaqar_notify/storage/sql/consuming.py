"""Consumers of a queue: claiming, popping, deleting. What changes anything holds the messages that it has found, so that each
goes to one consumer only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select

from zaqar_notify.errors import Forbidden, InvalidRequest
from zaqar_notify.model import Claim, Draft, Message
from zaqar_notify.storage import ids
from zaqar_notify.storage.sql import numbering, publishing, statements
from zaqar_notify.storage.sql.reading import Place
from zaqar_notify.storage.sql.tables import queues

_MOST_ROUNDS = 10
"""So often one claim looks for more messages, when what it found has to go to the dead-letter queue."""
_DEAD_LETTERS_A_ROUND = 100


# -- popping and deleting ------------------------------------------------------------------------------------------------------


def pop(place: Place, limit: int) -> list[Message]:
    asked = json.dumps(_consumable(place, limit))
    popped = place.messages(statements.READ_MESSAGES, asked=asked)
    if popped:
        place.run(statements.DELETE_MESSAGES, asked=asked)
    return popped


def _consumable(place: Place, limit: int) -> list[int]:
    return list(place.run(statements.CONSUMABLE, limit=limit).scalars())


def delete(place: Place, message: int, claim_id: str | None) -> None:
    found = place.messages(statements.GET_MESSAGE, message=message)
    if not found:
        return
    if claim_id is not None and read_claim(place, claim_id) is None:
        raise InvalidRequest("There is no such claim (any more): leave claim_id out, or claim the message again.")
    if claim_id is not None and found[0].claim_id is None:
        raise InvalidRequest("The message is not claimed: leave claim_id out.")
    if found[0].claim_id != claim_id:
        raise Forbidden("The message is claimed: give the claim_id of its claim.")
    place.run(statements.DELETE_MESSAGES, asked=json.dumps([message]))


def delete_several(place: Place, asked: Sequence[int], claim_ids: Collection[str] | None) -> None:
    found = place.messages(statements.READ_LIVE_MESSAGES, asked=json.dumps(asked))
    if not {message.claim_id for message in found}.issuperset(claim_ids or ()):
        raise InvalidRequest("Each of claim_ids has to be the claim of at least one of the messages.")
    place.run(statements.DELETE_MESSAGES, asked=json.dumps([ids.parse(message.id) for message in found]))


# -- claims --------------------------------------------------------------------------------------------------------------------


def claim(place: Place, limit: int, ttl: int, grace: int) -> tuple[Claim, list[Message]] | None:
    chosen = json.dumps(_choose(place, limit))
    number = numbering.give(place.connection, statements.LAST_CLAIM_ID, place.now)[0]
    made = Claim(ids.show(number), ttl, grace, place.now)
    if not place.run(statements.CLAIM_MESSAGES, asked=chosen, claim=number, end=made.expires_at).rowcount:
        return None
    place.connection.exec_driver_sql(
        statements.INSERT_CLAIM, (number, place.number, ttl, grace, made.created_at, made.expires_at)
    )
    _prolong(place, chosen, made.expires_at + grace)
    return made, place.messages(statements.READ_MESSAGES, asked=chosen)


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


def _prolong(place: Place, asked: str, until: float) -> None:
    prolonged = place.run(statements.LIVE_LONGER, asked=asked, until=until).scalars().all()
    if prolonged:
        place.run(statements.DELIVER_LONGER, asked=json.dumps(prolonged), until=until)


def read_claim(place: Place, claim_id: str) -> Claim | None:
    number = ids.parse(claim_id)
    found = None if number is None else place.run(statements.GET_CLAIM, claim=number).first()
    return None if found is None else Claim(claim_id, found.ttl, found.grace, found.created_at)


def claimed_messages(place: Place, claim_id: str) -> list[Message]:
    """Of a claim that `read_claim` has found: those that are still there."""
    return place.messages(statements.READ_MESSAGES, asked=_claimed(place, claim_id))


def _claimed(place: Place, claim_id: str) -> str:
    return json.dumps(place.run(statements.CLAIMED_MESSAGES, claim=ids.parse(claim_id)).scalars().all())


def renew(place: Place, claim_id: str, ttl: int, grace: int) -> bool:
    number, end = ids.parse(claim_id), place.now + ttl
    if number is None or not place.run(statements.RENEW_CLAIM, claim=number, ttl=ttl, grace=grace, end=end).rowcount:
        return False
    _prolong(place, _claimed(place, claim_id), end + grace)
    place.run(statements.KEEP_MESSAGES, claim=number, end=end)
    return True


def release(place: Place, claim_id: str) -> None:
    number = ids.parse(claim_id)
    if number is not None and place.run(statements.END_CLAIM, claim=number).rowcount:
        place.run(statements.FREE_MESSAGES, claim=number)


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
        worn = place.messages(statements.CLAIMED_TOO_OFTEN, asked=json.dumps(found), most=self.most_claims)
        letters = {int(message.id, 16): message for message in worn if not message.sealed}
        kept: list[int] = []
        passed: list[int] = []
        for message in found:
            if len(kept) == wanted:
                break
            (passed if message in letters else kept).append(message)
        self._move(place, [letters[message] for message in passed])
        place.run(statements.DELETE_MESSAGES, asked=json.dumps(passed))
        return kept, len(passed)

    def _move(self, place: Place, letters: Sequence[Message]) -> None:
        posts = [publishing.Post(place.project, self.queue, (self._draft(one),), one.client_id) for one in letters]
        publishing.insert(place.connection, posts, place.now, place.bodies, place.retention)

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
    text = place.connection.execute(select(queues.c.metadata).where(queues.c.id == place.number)).scalar()
    if text is None or '"_dead_letter_queue"' not in text:
        return None
    metadata = json.loads(text)
    queue, most_claims = metadata.get("_dead_letter_queue"), _positive(metadata.get("_max_claim_count"))
    if most_claims is None or not isinstance(queue, str) or not queue:
        return None
    return _DeadLetters(queue, most_claims, _positive(metadata.get("_dead_letter_queue_messages_ttl")))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
