"""Small pages for people who have followed a link: no scripts, nothing from elsewhere, and readable without their style."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping

import falcon

_STYLE = "body{font:1.1em/1.5 sans-serif;max-width:36em;margin:3em auto;padding:0 1em}button{font:inherit;padding:.5em 1em}"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{text}</p>
{form}</main>
</body>
</html>
"""
_FORM = '<form method="post"><button type="submit">{}</button></form>\n'

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}


def preferred(req: falcon.Request) -> bool:
    """Who calls would rather read a page than JSON: a browser says so, and nothing else does."""
    return req.client_prefers((falcon.MEDIA_JSON, falcon.MEDIA_HTML)) == falcon.MEDIA_HTML


def show(resp: falcon.Response, title: str, text: str, button: str | None = None) -> None:
    """With a ``button`` that posts to the URL of the page itself."""
    form = "" if button is None else _FORM.format(html.escape(button))
    page = _FRAME.format(title=html.escape(title), text=html.escape(text), style=_STYLE, form=form)
    resp.content_type = falcon.MEDIA_HTML
    resp.data = page.encode()
    resp.set_headers(HEADERS)
