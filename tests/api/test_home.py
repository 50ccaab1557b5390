import re

from tests.api.case import ApiCase, routes


class HomeTest(ApiCase):
    def test_versions(self):
        for who in ({}, {"client_id": None, "project": None, "headers": {"Accept": "text/html"}}):
            answer = self.ok("GET", "/", status=300, **who)
            self.assertEqual(answer.headers["content-type"], "application/json")
            self.assertEqual(set(answer.json), {"versions"})
            [version] = answer.json["versions"]
            self.assertEqual((version["id"], version["status"]), ("2", "CURRENT"))
            self.assertEqual(set(version), {"id", "status", "updated", "media-types", "links"})
            self.assertEqual(version["links"], [{"href": "/v2/", "rel": "self"}])

    def test_home(self):
        answer = self.ok("GET", "/v2/")
        self.assertEqual(answer.headers["content-type"], "application/json-home")
        self.assertEqual(answer.headers["cache-control"], "max-age=86400")
        queue = answer.json["resources"]["rel/queue"]
        self.assertEqual(queue["href-template"], "/v2/queues/{queue_name}")
        self.assertEqual(queue["href-vars"], {"queue_name": "param/queue_name"})
        self.assertEqual(queue["hints"]["allow"], ["GET", "PUT", "DELETE", "PATCH"])
        self.assertEqual(queue["hints"]["accept-patch"], ["application/openstack-messaging-v2.0-json-patch"])
        self.assertEqual(answer.json["resources"]["rel/ping"]["href"], "/v2/ping")
        self.refused(400, "GET", "/v2/", client_id=None)

    def test_every_route_is_listed(self):
        listed = set()
        for resource in self.ok("GET", "/v2/").json["resources"].values():
            template = resource.get("href") or resource["href-template"]
            path = re.sub(r"\{\?.*", "", template).replace("{queue_name}", "{queue}")
            listed |= {(path, method) for method in resource["hints"]["allow"]}
            names = re.findall(r"[a-z_]+", "".join(re.findall(r"\{[^}]*\}", template)))
            self.assertEqual(sorted(resource.get("href-vars", {})), sorted(names), template)
        served = {
            (path, method.removeprefix("on_").upper())
            for path, resource in routes(self.client.app)
            if path.startswith("/v2/")
            for method in dir(resource)
            if method.startswith("on_")
        }
        self.assertEqual(listed, served)
        self.assertGreaterEqual(len(served), 30)
