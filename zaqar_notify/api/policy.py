"""What a caller may do: rules for oslo.policy, one for each action of the API. A policy file can replace any of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from oslo_config import cfg
from oslo_policy import policy

from zaqar_notify.api.identity import Caller

_QUEUES = "/v2/queues"
_QUEUE = "/v2/queues/{queue}"
_MESSAGES = f"{_QUEUE}/messages"
_MESSAGE = f"{_MESSAGES}/{{message_id}}"
_CLAIM = f"{_QUEUE}/claims/{{claim_id}}"
_DELIVERY = f"{_MESSAGE}/deliveries/{{subscription_id}}"
_SUBSCRIPTIONS = f"{_QUEUE}/subscriptions"
_SUBSCRIPTION = f"{_SUBSCRIPTIONS}/{{subscription_id}}"

GROUPS = [
    policy.RuleDefault(
        "tenant",
        "not auth:apikey",
        "Everyone in a project, where it is not API keys that say who may do what: as Zaqar, whose rules ask for no role. "
        "To ask for Keystone's roles, replace it, for example by: role:member or role:admin",
    ),
    # The roles of API keys stand first: most requests bring one.
    policy.RuleDefault("reader", "role:read or role:admin or rule:tenant", "Looks, and changes nothing."),
    policy.RuleDefault("publisher", "role:publish or role:admin or rule:tenant", "Makes queues, and posts to them."),
    policy.RuleDefault("subscriber", "role:subscribe or role:admin or rule:tenant", "Says who is notified."),
    policy.RuleDefault(
        "consumer",
        "(role:read and role:publish) or role:admin or rule:tenant",
        "Takes messages out of a queue: claims, pops and deletes them.",
    ),
    policy.RuleDefault(
        "owner", "role:admin or rule:tenant", "Deletes and purges queues, and hands out pre-signed URLs, which need no role."
    ),
]


def _action(name: str, check: str, description: str, *operations: tuple[str, str]) -> policy.DocumentedRuleDefault:
    return policy.DocumentedRuleDefault(
        name, check, description, [{"method": method, "path": path} for method, path in operations]
    )


ACTIONS = [
    _action("ping:get", "@", "Ask whether the service is there, and what it has.", ("GET", "/v2/ping"), ("GET", "/v2/")),
    _action("health:get", "role:admin", "See how the service is, all projects together.", ("GET", "/v2/health")),
    _action("queues:get_all", "rule:reader", "List the queues.", ("GET", _QUEUES)),
    _action("queues:create", "rule:publisher", "Make a queue, or replace its metadata.", ("PUT", _QUEUE)),
    _action("queues:get", "rule:reader", "Show a queue's metadata.", ("GET", _QUEUE)),
    _action("queues:update", "rule:publisher", "Change a queue's metadata.", ("PATCH", _QUEUE)),
    _action("queues:delete", "rule:owner", "Delete a queue with its messages.", ("DELETE", _QUEUE)),
    _action("queues:stats", "rule:reader", "Count a queue's messages.", ("GET", f"{_QUEUE}/stats")),
    _action("queues:share", "rule:owner", "Make a pre-signed URL.", ("POST", f"{_QUEUE}/share")),
    _action("queues:purge", "rule:owner", "Delete a queue's messages or subscriptions.", ("POST", f"{_QUEUE}/purge")),
    _action("messages:get_all", "rule:reader", "List messages.", ("GET", _MESSAGES)),
    _action("messages:create", "rule:publisher", "Post messages.", ("POST", _MESSAGES)),
    _action("messages:delete_all", "rule:consumer", "Pop messages, or delete several.", ("DELETE", _MESSAGES)),
    _action("messages:get", "rule:reader", "Show a message.", ("GET", _MESSAGE)),
    _action("messages:delete", "rule:consumer", "Delete a message.", ("DELETE", _MESSAGE)),
    _action("claims:create", "rule:consumer", "Claim messages.", ("POST", f"{_QUEUE}/claims")),
    _action("claims:get", "rule:reader", "Show a claim with its messages.", ("GET", _CLAIM)),
    _action("claims:update", "rule:consumer", "Renew a claim.", ("PATCH", _CLAIM)),
    _action("claims:delete", "rule:consumer", "Release a claim.", ("DELETE", _CLAIM)),
    _action("subscription:get_all", "rule:reader or rule:subscriber", "List subscriptions.", ("GET", _SUBSCRIPTIONS)),
    _action("subscription:create", "rule:subscriber", "Subscribe.", ("POST", _SUBSCRIPTIONS)),
    _action("subscription:get", "rule:reader or rule:subscriber", "Show a subscription.", ("GET", _SUBSCRIPTION)),
    _action("subscription:update", "rule:subscriber", "Change a subscription.", ("PATCH", _SUBSCRIPTION)),
    _action("subscription:delete", "rule:subscriber", "Unsubscribe.", ("DELETE", _SUBSCRIPTION)),
    _action("subscription:confirm", "rule:subscriber", "Confirm a subscription.", ("PUT", f"{_SUBSCRIPTION}/confirm")),
    _action("subscription:enable", "rule:subscriber", "Enable a subscription again.", ("POST", f"{_SUBSCRIPTION}/enable")),
    _action("subscription:ping", "rule:subscriber", "Send a test notification.", ("POST", f"{_SUBSCRIPTION}/ping")),
    _action(
        "deliveries:get_all",
        "rule:reader",
        "See whether messages have arrived.",
        ("GET", f"{_MESSAGE}/deliveries"),
        ("GET", f"{_SUBSCRIPTION}/deliveries"),
    ),
    _action("deliveries:get", "rule:reader", "See whether a message has arrived.", ("GET", _DELIVERY)),
    _action("deliveries:redeliver", "rule:subscriber", "Start a delivery anew.", ("POST", f"{_DELIVERY}/redeliver")),
    _action("deliveries:replay", "rule:subscriber", "Deliver again what has failed.", ("POST", f"{_SUBSCRIPTION}/replay")),
    _action("deliveries:cancel", "rule:subscriber", "End a delivery.", ("POST", f"{_DELIVERY}/cancel")),
]


def list_rules() -> list[policy.RuleDefault]:
    """For oslopolicy-sample-generator."""
    return [*GROUPS, *ACTIONS]


class Rules:
    """The rules in force. A policy file is read once, by whoever makes ``enforcer``: changes come with the next start.

    A decision is remembered for ``LIFETIME`` seconds: oslo.policy takes as long for one as a message takes to be parsed.
    """

    LIFETIME = 1.0
    MOST = 4_000

    def __init__(self, enforcer: policy.Enforcer, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``enforcer`` knows `list_rules` and has loaded its file, if there is one."""
        self._enforcer = enforcer
        # It would look for changes of the file with every decision.
        enforcer.use_conf = False
        self._clock = clock
        self._decided: dict[tuple[str, Caller], tuple[float, bool]] = {}

    @classmethod
    def defaults(cls) -> Rules:
        enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)
        enforcer.set_rules({rule.name: rule.check for rule in list_rules()}, use_conf=False)
        return cls(enforcer)

    def allow(self, action: str, caller: Caller) -> bool:
        """False also for an action without a rule."""
        now = self._clock()
        decided = self._decided.get((action, caller))
        if decided is not None and decided[0] > now:
            return decided[1]
        allowed = self._decide(action, caller)
        if len(self._decided) >= self.MOST:
            self._decided.clear()
        self._decided[action, caller] = (now + self.LIFETIME, allowed)
        return allowed

    def _decide(self, action: str, caller: Caller) -> bool:
        credentials = {
            "auth": caller.auth,
            "roles": list(caller.roles),
            "project_id": caller.project,
            "user_id": caller.user_id,
        }
        return bool(self._enforcer.enforce(action, {"project_id": caller.project}, credentials))
