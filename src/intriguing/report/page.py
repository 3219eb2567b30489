"""Build the page of a run: one HTML file that opens from disk, asks the network for nothing, and prints.

The page shows what the results and records hold and computes nothing. It reads as the study does, part by part; at
its end stands the source of every function that computed a number. Every text goes through Jinja2 with autoescape,
because names of files, classes and nets are the user's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from intriguing.errors import StoreError
from intriguing.records import Record
from intriguing.report import code, embed, figures, findings, images, provenance, sheet, tables
from intriguing.report import format as fmt
from intriguing.store.files import write_atomic
from intriguing.studies.spec import Exhibit, Study

_MARKS = {
    "v": "checked against the paper’s running text",
    "s": "second-hand, in agreement with an independent reproduction",
    "m": "from memory, unverified",
}
_MEGABYTE = 1_000_000
# What the names of sections begin with that correct the print.
_ERRATUM = "erratum-"


def build(
    study: Study,
    results: Mapping[str, Any],
    records: Mapping[str, Record],
    *,
    command: str,
    image_budget: int = 6 * _MEGABYTE,
) -> str:
    """Return the page of a run as HTML.

    Args:
        study: gives titles, claims, readings and sources.
        results: the document of results.json: ``schema``, ``run`` and ``cells``.
        records: by exhibit name, whose values may hold ``findings`` and ``notes`` (lists of texts),
            ``figures`` (pictures) and ``tables``; whose tensors hold the images of galleries and cards.
        command: the command line that makes the run again.
        image_budget: bytes that all images may take together; larger ones are halved until they fit, and the page
            says so.

    Example:
        >>> html = build(study, results, records, command="intriguing reproduce")  # doctest: +SKIP
        >>> write("runs/t1/report.html", html)  # doctest: +SKIP
    """
    run = results.get("run") or {}
    cells, unmeasured = (_of(study, results.get(name)) for name in ("cells", "unmeasured"))
    album = images.Album(image_budget, _expected(records))
    names = [e.name for e in study.exhibits]
    shown = [
        _exhibit(study, e, run, [c for c in cells if c.get("table") == e.name], unmeasured, records.get(e.name), album)
        for e in study.exhibits
    ]
    sections = [s for s in shown if s is not None]
    others = list(dict.fromkeys(str(c.get("table")) for c in cells if c.get("table") not in names))
    sections += [_stray(name, [c for c in cells if str(c.get("table")) == name]) for name in others]
    proper = [s for s in sections if not s["erratum"]]
    judged = [cell for s in sections if s["table"] for cell in s["table"].cells]
    heroes = [s["hero"] for s in sections if s["hero"]]
    origins = {s["ident"]: (fmt.heading(s["name"]), s["origin"]) for s in sections if s["origin"]}
    anchors = code.anchors([origin for _, origin in origins.values()])
    return sheet.render(
        "page.html.j2",
        study=study,
        parts=_parts(study, sections),
        sections=sections,
        absent=[e for e, s in zip(study.exhibits, shown, strict=True) if s is None],
        # Errata are for citing; they open the page only if it holds nothing else.
        findings=findings.strongest([(s["part"], s["ident"], s["findings"]) for s in proper or sections]),
        names={s["ident"]: fmt.heading(s["name"]) for s in sections},
        hero=max(heroes, key=lambda h: h["rank"], default=None),
        judged=bool(judged),
        summary=_sentence(judged),
        measured_on=_measured_on(run.get("settings") or {}, run.get("data") or {}),
        verdicts=tables.VERDICTS,
        marks=_MARKS,
        settings=fmt.flatten(run.get("settings") or {}),
        groups=[(word, fmt.flatten(run.get(word) or {})) for word in ("environment", "seeds", "hashes")],
        command=command,
        anchors=anchors,
        functions=code.entries(origins, anchors),
        arxiv=_arxiv(study),
        data=embed.readable(results),
        embedded=embed.embedded(results),
    )


def write(path: str | os.PathLike[str], html: str) -> None:
    """Write a page so that a reader finds either the old file or the whole new one.

    Args:
        path: where the page goes; its folder must exist.
        html: what `build` returned.

    Raises:
        StoreError: if the file cannot be written.
    """
    try:
        write_atomic(os.fspath(path), fmt.clean(html).encode())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise StoreError(
            f"cannot write the report {os.fspath(path)}: {reason}; free some space or name another folder"
        ) from error


def _exhibit(
    study: Study,
    exhibit: Exhibit,
    run: Mapping[str, Any],
    cells: Sequence[Mapping[str, Any]],
    unmeasured: Sequence[Mapping[str, Any]],
    record: Record | None,
    album: images.Album,
) -> dict[str, Any] | None:
    """Return what the template needs to show one exhibit, or None if this run holds nothing of it."""
    if record is None and not cells:
        return None
    ident = _slug(exhibit.name)
    values = record.values if record else {}
    views = figures.figures(exhibit, ident, record, cells, album)
    return {
        "ident": ident,
        "name": exhibit.name,
        "part": exhibit.part,
        "erratum": exhibit.name.startswith(_ERRATUM),
        "title": exhibit.title,
        "claim": exhibit.claim,
        "reading": exhibit.reading,
        "table": tables.table(exhibit.name, ident, cells, exhibit.printed),
        "figures": views,
        "grids": [
            tables.grid(t, f"{ident}-{_slug(str(t.get('id', i + 1)))}")
            for i, t in enumerate(values.get("tables") or ())
        ],
        "findings": _texts(record, "findings"),
        "notes": _texts(record, "notes"),
        "unmeasured": [tables.unmeasured(c, exhibit.printed) for c in unmeasured if c.get("table") == exhibit.name],
        "origin": provenance.provenance(study, exhibit, run, cells),
        "hero": figures.opening(views, ident),
    }


def _stray(name: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a section for cells whose table the study does not state, so that no number is lost."""
    ident = _slug(name)
    empty: dict[str, Any] = {
        "part": "",
        "erratum": False,
        "findings": [],
        "claim": "",
        "reading": "",
        "figures": [],
        "grids": [],
        "notes": [],
        "unmeasured": [],
        "origin": None,
        "hero": None,
    }
    return {
        "ident": ident,
        "name": name,
        "title": fmt.heading(name),
        "table": tables.table(name, ident, cells, {}),
        **empty,
    }


def _parts(study: Study, sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sections by part, parts and sections in the study's order; what belongs to no part stands as it is."""
    order = list(dict.fromkeys([*study.parts, *(s["part"] for s in sections)]))
    # Sections without a part keep their place: before the parts if the page begins with one, else after them.
    before = bool(sections) and sections[0]["part"] == ""
    order.sort(key=lambda title: (title != "") == before)
    parts = []
    for title in order:
        members = [s for s in sections if s["part"] == title]
        if members:
            cells = [c for s in members if s["table"] for c in s["table"].cells if c.printed]
            sentence = study.parts.get(title, "") if title else ""
            ident = f"part-{_slug(title)}" if title else ""
            parts.append({"ident": ident, "title": title, "sentence": sentence, "sections": members, "cells": cells})
    return parts


def _expected(records: Mapping[str, Record]) -> list[list[torch.Tensor | None]]:
    """Return all rows of images that the records' pictures show."""
    return [row for r in records.values() for row in images.rows(r.values.get("figures") or (), r.tensors)]


def _arxiv(study: Study) -> str:
    """Return how an erratum names the paper: its number in the archive, or else its title."""
    number = re.search(r"arXiv:\d{4}\.\d{4,5}", study.citation)
    return number[0] if number else study.title


def _of(study: Study, cells: Any) -> list[Mapping[str, Any]]:
    """Return the entries of a list of results.json that belong to the study."""
    return [c for c in cells or () if c.get("study", study.name) == study.name]


def _texts(record: Record | None, name: str) -> list[str]:
    """Return a list of texts from a record; empty if it has none."""
    given = record.values.get(name) if record else None
    return [fmt.prose(t) for t in ([given] if isinstance(given, str) else given or ())]


def _sentence(cells: Sequence[tables.CellView]) -> str:
    """Say in words how the printed numbers fared."""
    counts = [(words, number) for words, style, number in tables.tally(cells) if style != "none"]
    if not counts:
        return "This run measured no number that the paper printed."
    plural = {"agrees": "agree", "same direction": "point in the same direction", "differs": "differ"}
    single = {
        **plural,
        "agrees": "agrees",
        "same direction": "points in the same direction",
        "differs": "differs",
    }
    parts = [f"{number} {(single if number == 1 else plural).get(word, word)}" for word, number in counts]
    total = sum(number for _, number in counts)
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return f"Of the {fmt.count(total)} printed numbers that this run measured again, {listed}."


def _measured_on(settings: Mapping[str, Any], splits: Collection[str]) -> str:
    """Say on which images the run measured, and so what its verdicts can mean; empty if it does not tell."""
    if not isinstance(settings.get("data"), str):
        return ""
    said = f"This run measured on “{fmt.clean(settings['data'])}”"
    if any(split.startswith("photographs/") for split in splits):
        chosen = settings.get("photographs")
        said += (
            f" and, where the paper takes photographs, on “{fmt.clean(chosen)}”"
            if chosen
            else "; where the paper takes photographs, the same images, enlarged, stand in for them"
        )
    return (
        f"{said}. A printed value belongs to the paper’s own images: on others it is a landmark and not a target, and "
        "what should hold is the order of the numbers."
    )


def _slug(name: str) -> str:
    """Return a name as an id: letters, digits, hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "part"
