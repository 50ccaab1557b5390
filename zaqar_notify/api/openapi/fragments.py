"""Small pieces that the document is made of."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Json = dict[str, Any]


def ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    return ref("schemas", name)


def parameter(where: str, name: str, described: Json, description: str, example: Any = None, *, required: bool = False) -> Json:
    """``where`` it is: in the path (it is required there), the query or the headers. ``described`` is its schema."""
    made: Json = {"name": name, "in": where, "description": description, "schema": described}
    if required or where == "path":
        made["required"] = True
    if example is not None:
        made["example"] = example
    return made


def record(properties: Json, *, optional: tuple[str, ...] = (), description: str | None = None) -> Json:
    """The schema of an object that the service makes: it has nothing but these."""
    made: Json = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
    if description is not None:
        made["description"] = description
    return made


def integer(least: int, most: int | None = None, *, default: int | None = None, description: str | None = None) -> Json:
    """The schema of a whole number."""
    made: Json = {"type": "integer", "minimum": least}
    if most is not None:
        made["maximum"] = most
    if default is not None:
        made["default"] = default
    if description is not None:
        made["description"] = description
    return made


def nullable(described: Json) -> Json:
    """The schema with null allowed, too."""
    return {**described, "type": [described["type"], "null"]}


def listed(items: Json, most: int | None = None) -> Json:
    """The schema of a list."""
    made: Json = {"type": "array", "items": items}
    if most is not None:
        made["maxItems"] = most
    return made


def json_content(described: Json, example: Any, media_type: str = "application/json") -> Json:
    return {media_type: {"schema": described, "example": example}}


def answer(
    description: str,
    described: Json | None = None,
    example: Any = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    media_type: str = "application/json",
    links: Mapping[str, Json] = MappingProxyType({}),
) -> Json:
    """An answer with a body, or none without ``described``. ``headers`` (name -> component) beside the request's id;
    ``links`` (operation -> parameters) to what the answer names."""
    everything = {"x-openstack-request-id": "RequestId", **headers}
    made: Json = {
        "description": description,
        "headers": {name: ref("headers", component) for name, component in everything.items()},
    }
    if described is not None:
        made["content"] = json_content(described, example, media_type)
    if links:
        made["links"] = {name: {"operationId": name, "parameters": parameters} for name, parameters in links.items()}
    return made
