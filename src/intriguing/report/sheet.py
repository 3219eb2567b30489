"""A page as HTML: its template, the style and script inside it, and the policy that names the script.

Every text goes through Jinja2 with autoescape, because names of files, classes and nets are the user's.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2
from markupsafe import Markup

from intriguing.report import format as fmt


def render(template: str, **values: Any) -> str:
    """Return a page that opens from disk and asks the network for nothing.

    Args:
        template: the file in ``templates``; it extends ``layout.html.j2``.
        values: what the template shows; a name it uses and is not given is an error.

    Example:
        >>> html = render("page.html.j2", study=study, parts=parts)  # doctest: +SKIP
    """
    style, script = _asset("style.css"), _asset("script.js")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    return fmt.clean(page.render(style=style, script=script, script_hash=script_hash, heading=fmt.heading, **values))


def _environment() -> jinja2.Environment:
    """Return the template environment: everything escaped, an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("intriguing.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> Markup:
    """Return the style sheet or the script as it is; both are ours and hold nothing of the user's."""
    environment = _environment()
    assert environment.loader is not None  # set one function above
    return Markup(environment.loader.get_source(environment, name)[0].strip())
