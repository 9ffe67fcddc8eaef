"""The report as one HTML page that needs nothing but itself."""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..ir.errors import LibraryNotFound
from . import charts, summary
from .collect import label
from .data import GENERATED, Report, plain
from .layout import HEIGHT, WIDTH, draw


def page(report: Report) -> str:
    """The page.

    Raises:
        LibraryNotFound: Jinja2 is not installed.
    """
    jinja2 = require_jinja()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters |= {"ms": summary.ms, "bytes": summary.sizes, "letter": summary.letter, "shorten": shorten}
    script, data = _read("page.js"), plain(report)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    longest = max((t for r in report.regions for t in r.ms if t), default=0.0)
    text = environment.from_string(_read("page.html.jinja")).render(
        report=report,
        data={**data, "texts": len(report.texts)},
        texts=packed(report.texts),
        headline=summary.headline(report),
        kinds=summary.kinds(report),
        unsteady=summary.unsteady(report),
        runner_times=summary.runner_times,
        worst_error=summary.worst_error,
        runners=report.runners,
        generated=GENERATED,
        drawing=draw(report),
        node=(WIDTH, HEIGHT),
        longest=longest,
        slowest=max(t.timing.high_ms for t in report.targets),
        largest=max(t.memory.total for t in report.targets),
        parts=("constants", "packed", "arena", "scratch", "io"),
        errors=charts.errors(report),
        roofline=charts.roofline(report),
        short=lambda group: label(group.ops),
        safe={"style": jinja2_markup(_read("page.css")), "script": jinja2_markup(script)},
        digest=digest,
    )
    return str(text)


def require_jinja() -> Any:
    """Jinja2.

    Raises:
        LibraryNotFound: it is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415 - optional
    except ImportError:
        raise LibraryNotFound("a report needs Jinja2. Install it with: pip install 'fusewire[report]'") from None
    return jinja2


def jinja2_markup(text: str) -> Any:
    """Text of ours that goes into the page as it is."""
    import markupsafe  # noqa: PLC0415 - comes with Jinja2

    return markupsafe.Markup(text)


def packed(texts: Sequence[str]) -> str:
    """Texts as JSON, compressed by zlib, in base 64: unrolled kernels are long, and repeat themselves."""
    return base64.b64encode(zlib.compress(json.dumps(texts).encode(), 9)).decode()


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of a text."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
