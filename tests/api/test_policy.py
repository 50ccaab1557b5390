"""The default rules: which action is whose."""

import unittest

from oslo_config import cfg
from oslo_policy import policy

from tests.api.case import ApiCase, routes
from zaqar_notify.api.identity import ROLES, Caller
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.policy import ACTIONS, Rules, list_rules

NAMES = {action.name for action in ACTIONS}
LOOKING = {
    "queues:get_all",
    "queues:get",
    "queues:stats",
    "messages:get_all",
    "messages:get",
    "claims:get",
    "subscription:get_all",
    "subscription:get",
    "deliveries:get_all",
    "deliveries:get",
}
PUBLISHING = {"queues:create", "queues:update", "messages:create"}
CONSUMING = {"messages:delete", "messages:delete_all", "claims:create", "claims:update", "claims:delete"}
SUBSCRIBING = {f"subscription:{verb}" for verb in ("get_all", "get", "create", "update", "delete", "confirm", "enable", "ping")}
SUBSCRIBING |= {"deliveries:redeliver", "deliveries:cancel", "deliveries:replay"}
OWNING = {"queues:delete", "queues:purge", "queues:share"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def allowed(auth: str, *roles: str) -> set[str]:
    rules = Rules.defaults()
    return {name for name in NAMES if rules.allow(name, Caller("p", auth, roles))}


class DefaultsTest(unittest.TestCase):
    def test_each_action_is_in_one_of_the_sets(self):
        self.assertEqual(NAMES, {"ping:get", "health:get"} | LOOKING | PUBLISHING | CONSUMING | SUBSCRIBING | OWNING)

    def test_roles_of_a_key(self):
        for roles, actions in (
            ((), set()),
            (("read",), LOOKING),
            (("publish",), PUBLISHING),
            (("subscribe",), SUBSCRIBING),
            (("read", "publish"), LOOKING | PUBLISHING | CONSUMING),
            (("read", "subscribe"), LOOKING | SUBSCRIBING),
            (("publish", "subscribe"), PUBLISHING | SUBSCRIBING),
            (("read", "publish", "subscribe"), LOOKING | PUBLISHING | CONSUMING | SUBSCRIBING),
            (("admin",), NAMES - {"ping:get"}),
            (("member",), set()),
        ):
            with self.subTest(roles=roles):
                self.assertEqual(allowed("apikey", *roles), actions | {"ping:get"})

    def test_without_keys_a_project_is_one_tenant_and_only_health_asks_for_a_role(self):
        for auth in ("none", "keystone"):
            for roles in ((), ("reader",), ("member",), ("anything",)):
                with self.subTest(auth=auth, roles=roles):
                    self.assertEqual(allowed(auth, *roles), NAMES - {"health:get"})
            self.assertEqual(allowed(auth, "admin"), NAMES)
            self.assertEqual(allowed(auth, "Admin"), NAMES, "Keystone's roles have no case")

    def test_what_has_no_rule_is_not_allowed(self):
        rules = Rules.defaults()
        for name in ("", "queues:nonsense", "default"):
            self.assertFalse(rules.allow(name, Caller("p", "apikey", ROLES)))

    def test_every_rule_is_documented(self):
        for rule in list_rules():
            self.assertTrue(rule.description, rule.name)


class RoutesTest(ApiCase):
    def test_routes_and_actions_are_the_same(self):
        served = {}
        for path, resource in routes(self.client.app):
            if resource.access is not Access.ZAQAR:
                continue
            for name in dir(resource):
                if name.startswith("on_") and name != "on_head":
                    method = name.removeprefix("on_").upper()
                    self.assertIn(method, resource.rules, f"{method} {path} has no action: nobody may do it")
                    served.setdefault(resource.rules[method], set()).add((method, path))
            self.assertLessEqual({f"on_{method.lower()}" for method in resource.rules}, set(dir(resource)), path)
        documented = {
            action.name: {(operation["method"], operation["path"]) for operation in action.operations} for action in ACTIONS
        }
        self.assertEqual(served, documented)


class DecisionsTest(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        self.enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)
        self.set("role:publish")
        self.rules = Rules(self.enforcer, clock=self.clock)

    def set(self, check):
        self.enforcer.set_rules({"messages:create": policy.RuleDefault("messages:create", check).check}, use_conf=False)

    def allow(self, caller):
        return self.rules.allow("messages:create", caller)

    def test_a_decision_is_remembered_for_a_moment(self):
        caller = Caller("p", "apikey", ("publish",))
        self.assertTrue(self.allow(caller))
        self.set("!")
        self.assertTrue(self.allow(caller))
        self.clock.now += Rules.LIFETIME
        self.assertFalse(self.allow(caller))

    def test_for_this_caller_and_this_action_alone(self):
        self.set("role:publish and project_id:p and auth:apikey and user_id:u")
        self.assertTrue(self.allow(Caller("p", "apikey", ("publish",), "u")))
        for caller in (
            Caller("q", "apikey", ("publish",), "u"),
            Caller("p", "keystone", ("publish",), "u"),
            Caller("p", "apikey", ("read",), "u"),
            Caller("p", "apikey", ("publish",), "v"),
            Caller("p", "apikey", ("publish",)),
        ):
            with self.subTest(caller=caller):
                self.assertFalse(self.allow(caller))
        self.assertFalse(self.rules.allow("messages:get", Caller("p", "apikey", ("publish",), "u")))

    def test_the_target_is_the_callers_project(self):
        self.set("project_id:%(project_id)s")
        self.assertTrue(self.allow(Caller("p", "none")))

    def test_memory_is_bounded(self):
        self.rules.MOST = 3
        for number in range(10):
            self.assertFalse(self.allow(Caller(f"p{number}", "none")))
            self.assertLessEqual(len(self.rules._decided), 3)
