"""Build the page of an audit: whether its numbers can be trusted, and how near the nearest mistakes of a model lie.

Like the paper's page it shows what the document and the records hold and computes nothing, opens from disk, asks the
network for nothing, and prints. Names of models, classes and files are the user's and are never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intriguing import documents
from intriguing.records import Record
from intriguing.report import audit_ends, audit_gallery, audit_numbers, embed, figures, images, sheet, tables
from intriguing.report import audit_pictures as pictures
from intriguing.report import format as fmt

_MEGABYTE = 1_000_000
_CONTRADICTION = "certificates and examples"  # the check that is red where a certificate reaches beyond an example
_DRAWN = 4  # models whose layers are drawn; the tables hold all
# State of a check -> style class, which also names its mark; the worst first.
_STATES = {"red": "alarm", "amber": "direction", "did not run": "none", "green": "agrees"}


def build(
    document: Mapping[str, Any],
    records: Mapping[str, Record],
    *,
    distances: Mapping[str, Sequence[float]] | None = None,
    image_budget: int = 6 * _MEGABYTE,
) -> str:
    """Return the page of an audit as HTML.

    Args:
        document: the audit's ``results.json``.
        records: by cell; one of them holds the tensors ``fragile/original`` and ``fragile/adversarial``, each
            (k, C, H, W) in the model's box, in the order of the document's ``fragile``.
        distances: attack -> L2 distance in pixel units of every image that was attacked, infinite where nothing was
            found; without it the page leaves out how they are spread.
        image_budget: bytes that all images may take together; larger ones are halved until they fit.

    Example:
        >>> html = build(document, records)  # doctest: +SKIP
        >>> page.write("runs/v1/report.html", html)  # doctest: +SKIP
    """
    run = _part(document, "run")
    models = [model for model in run.get("models") or () if isinstance(model, Mapping)]
    numbers = _part(document, "figures")
    checks = _checks(document.get("trust") or ())
    doubts = documents.doubts(document)
    contradicted = any(c["name"] == _CONTRADICTION and c["state"] == "red" for c in checks)
    shown = audit_gallery.rows(records, len(document.get("fragile") or ()), _box(models))
    album = images.Album(image_budget, shown)
    sections = [
        _ends(document, numbers, album),
        _curves(document, album),
        _distances(document, numbers, distances or {}, album),
        _fragile(document, shown, album),
        _confusion(document, album),
        _transfer(document),
        _layers(document, numbers, album),
        _figures(numbers, models, contradicted),
    ]
    return sheet.render(
        "audit.html.j2",
        title=audit_numbers.listed([fmt.clean(m.get("name", "")) for m in models]) or "A model",
        about=_about(run),
        trusted=not doubts,
        certified=bool(_part(document, "certificates")),
        reasons=[fmt.prose(reason) for reason in doubts],
        strip=audit_numbers.opening(numbers, contradicted=contradicted),
        facts=_facts(run, models),
        checks=checks,
        tally=_tally(checks),
        assurance=_assurance(checks),
        sections=[section for section in sections if section],
        models=[
            (fmt.clean(m.get("name", "")), fmt.flatten({k: v for k, v in m.items() if k != "name"})) for m in models
        ],
        settings=fmt.flatten(_part(run, "settings")),
        data_set=fmt.flatten({k: v for k, v in _part(run, "data").items() if k != "classes"}),
        groups=[(word, fmt.flatten(_part(run, word))) for word in ("environment", "seeds", "hashes")],
        command=fmt.clean(run.get("command") or "intriguing audit"),
        anchors={},
        marks={},
        data=embed.readable(document),
        embedded=embed.embedded(document),
    )


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object of the document; empty if it has none."""
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _section(ident: str, name: str, title: str, sentence: str, **more: Any) -> dict[str, Any]:
    """Return a section as the template takes it; ``bound``: its numbers rest on attacks that may have failed."""
    empty: dict[str, Any] = {
        "lead": [],
        "table": None,
        "figures": [],
        "grids": [],
        "specimens": [],
        "numbers": [],
        "others": [],
        "small": False,
        "origin": None,
        "unmeasured": [],
    }
    return {**empty, "ident": ident, "name": name, "title": title, "sentence": sentence, "bound": True, **more}


def _ends(document: Mapping[str, Any], numbers: Mapping[str, Any], album: images.Album) -> dict[str, Any] | None:
    given = _part(document, "certificates")
    if not audit_ends.models(given):
        return None
    return _section(
        "ends",
        "Both ends",
        "What is proved, what was found, and what lies between",
        audit_ends.reading(given, numbers),
        lead=[figures.drawn(audit_ends.band(given), "ends-band", {}, album)],
        table=tables.table("both ends", "ends", audit_ends.cells(given, numbers), {}),
        figures=[figures.drawn(audit_ends.cost(given), "ends-cost", {}, album)],
        grids=[tables.grid(table, f"ends-table-{i + 1}") for i, table in enumerate(audit_ends.tables(given))],
    )


def _curves(document: Mapping[str, Any], album: images.Album) -> dict[str, Any] | None:
    attacks = _part(_part(document, "run"), "settings").get("attacks") or ()
    drawn = pictures.curves(document.get("curves") or (), attacks)
    twins = [table for _, group in drawn for table in group]
    if not drawn:
        return None
    return _section(
        "curve",
        "Curve",
        "How accuracy falls with distance",
        "An image counts as robust at a distance if it is answered rightly and no attack found a mistake within it. "
        "Of several attacks the worst counts, image by image, and never their average.",
        figures=[figures.drawn(p, f"curve-{i + 1}", {}, album) for i, (p, _) in enumerate(drawn)],
        grids=[tables.grid(table, f"curve-table-{i + 1}") for i, table in enumerate(twins)],
    )


def _distances(
    document: Mapping[str, Any],
    numbers: Mapping[str, Any],
    distances: Mapping[str, Sequence[float]],
    album: images.Album,
) -> dict[str, Any] | None:
    median = documents.number(_part(numbers, "median_l2"), "value")
    views, grids = [], []
    if document.get("classes"):
        picture, table = pictures.classes(document["classes"])
        views.append(figures.drawn(picture, "distances-class", {}, album))
        grids.append(tables.grid(table, "distances-table"))
    spread = pictures.spread(distances, median)
    if spread:
        views.append(figures.drawn(spread, "distances-spread", {}, album))
    sentence = "The distance to the nearest example that any attack found, over the images the model answers rightly."
    title = "How far the nearest mistakes lie"
    return _section("distances", "Distances", title, sentence, figures=views, grids=grids) if views else None


def _fragile(document: Mapping[str, Any], shown: Sequence[Sequence[Any]], album: images.Album) -> dict[str, Any] | None:
    given = document.get("fragile") or ()
    if not given:
        return None
    specimens = audit_gallery.specimens(given, shown, album)
    return _section(
        "fragile",
        "Gallery",
        f"The {fmt.count(len(given)) + ' images' if len(given) > 1 else 'image'} nearest to a mistake",
        "The smallest distances first. The change is magnified around mid grey by the factor beside it.",
        specimens=specimens,
        small=all(p.pixels for s in specimens for _, p in s["shots"] if p),
    )


def _confusion(document: Mapping[str, Any], album: images.Album) -> dict[str, Any] | None:
    picture, table = pictures.confusion(_part(document, "confusion"))
    if not table["rows"]:
        return None
    views = [figures.drawn(picture, "confusion-matrix", {}, album)] if picture else []
    sentence = "Which class the nearest example of an image is taken for."
    grids = [tables.grid(table, "confusion-table")]
    return _section("confusion", "Confusion", "What it is mistaken for", sentence, figures=views, grids=grids)


def _transfer(document: Mapping[str, Any]) -> dict[str, Any] | None:
    cells = pictures.transfer(_part(document, "transfer"))
    if not cells:
        return None
    return _section(
        "transfer",
        "Transfer",
        "Whether examples made for one model mislead another",
        "Read along a row: examples made for one model, fed to all. Beside ◇ stands noise of the same size on the same "
        "images, which should mislead nobody.",
        table=tables.table("transfer", "transfer", cells, {}),
    )


def _layers(document: Mapping[str, Any], numbers: Mapping[str, Any], album: images.Album) -> dict[str, Any] | None:
    given = _entries(document.get("layers"))
    title = "Where a small change can grow"
    note = fmt.prose(document.get("layers_note") or "")
    if not given:
        return _section("layers", "Instability", title, note, bound=False) if note else None
    drawn = [pictures.layers(given)]
    models = audit_ends.models(_part(document, "certificates"))
    if len(models) > 1:
        # Of several models each is told apart by its name.
        drawn = [pictures.layers(_entries(m.get("layers")), fmt.clean(m.get("name", ""))) for m in models]
    product = (
        audit_numbers.view("lipschitz_product", numbers["lipschitz_product"])
        if "lipschitz_product" in numbers
        else None
    )
    sentence = (
        "A layer can lengthen a change of its input at most by its bound. This needs no attack, so one that fails "
        "leaves it as it is."
    )
    of = f" of {fmt.clean(models[0].get('name', ''))}" if len(models) > 1 else ""
    if product:
        sentence += (
            f" The product of all bounds{of} is {product.value.rstrip('×')}: the whole net stretches no change further."
        )
    if any(documents.number(entry, "gain") is not None for entry in given):
        sentence += (
            " On the images nearest to a mistake, changed as the examples found change them, each layer stretches "
            "less. The logarithms of bound over gain add up to all that this product gives away, so each layer has its "
            "share of it: those on top lose most."
        )
    views = [
        figures.drawn(picture, f"layers-bounds{i or ''}", {}, album) for i, (picture, _) in enumerate(drawn[:_DRAWN])
    ]
    views = [view | {"repeats": i > 0} for i, view in enumerate(views)]  # what holds for all is said once
    grids = [tables.grid(table, f"layers-table{i or ''}") for i, (_, table) in enumerate(drawn)]
    return _section("layers", "Instability", title, sentence, figures=views, grids=grids, bound=False)


def _entries(given: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list in the document."""
    return [entry for entry in given if isinstance(entry, Mapping)] if isinstance(given, list | tuple) else []


def _figures(
    numbers: Mapping[str, Any], models: Sequence[Mapping[str, Any]], contradicted: bool
) -> dict[str, Any] | None:
    if not numbers:
        return None
    beginnings = tuple(f"{m.get('name')}/" for m in models[1:])
    others = {name: figure for name, figure in numbers.items() if name.startswith(beginnings)}
    own = {name: figure for name, figure in numbers.items() if name not in others}
    sentence = "The names are those that a condition of intriguing gate uses."
    return _section(
        "figures",
        "Figures",
        "Every figure by its name",
        sentence,
        numbers=audit_numbers.views(own, contradicted=contradicted),
        others=audit_numbers.views(others, contradicted=contradicted),
    )


def _checks(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks, the worst first; one in a state that is not known counts as not run."""
    found = []
    for check in given:
        state = fmt.clean(check.get("state", ""))
        found.append(
            {
                "name": fmt.clean(check.get("name", "")),
                "state": state if state in _STATES else "did not run",
                "style": _STATES.get(state, "none"),
                "value": fmt.number(documents.number(check, "value")),
                "size": f"n {fmt.count(check['n'])}" if fmt.finite(check.get("n")) else "",
                "sentence": fmt.prose(check.get("sentence", "")),
            }
        )
    order = list(_STATES)
    return sorted(found, key=lambda c: order.index(c["state"]))


def _tally(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Return state, style and how many checks are in it, those that occur."""
    counts = [(state, style, sum(c["state"] == state for c in checks)) for state, style in _STATES.items()]
    return [entry for entry in counts if entry[2]]


def _assurance(checks: Sequence[Mapping[str, Any]]) -> str:
    """Say what the checks found in an audit that can be trusted."""
    counts = {state: number for state, _, number in _tally(checks)}
    if not counts.keys() - {"did not run"}:
        return "No check ran, so nothing was found against these numbers, and nothing speaks for them."
    words = ["No check shows that an attack was led astray"]
    if counts.get("amber"):
        words.append(f"{counts['amber']} {'is' if counts['amber'] == 1 else 'are'} amber and worth a look")
    if counts.get("did not run"):
        words.append(f"{counts['did not run']} did not run")
    return "; ".join(words) + "."


def _box(models: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the range of pixels of the first model; black to white if it states none."""
    for model in models[:1]:
        low, high = (*documents.numbers(model, "box"), None, None)[:2]
        if low is not None and high is not None and high > low:
            return low, high
    return 0.0, 1.0


def _about(run: Mapping[str, Any]) -> str:
    """Say in a line what was measured on."""
    data, settings = _part(run, "data"), _part(run, "settings")
    attacks = settings.get("attacks")
    words = []
    models = [m.get("name", "") for m in run.get("models") or () if isinstance(m, Mapping)]
    if data:
        split = f", {fmt.clean(data['split'])}" if data.get("split") else ""
        words.append(f"{fmt.count(data.get('n'))} images of “{fmt.clean(data.get('name', ''))}”{split}")
    if isinstance(attacks, list | tuple) and attacks:
        words.append(f"attacked by {audit_numbers.listed([fmt.clean(a) for a in attacks])}")
    if fmt.finite(settings.get("budget")) is not None:
        words.append(f"at most {fmt.count(settings['budget'])} forward and backward passes per image and attack")
    if fmt.finite(settings.get("starts")) is not None:
        words.append(f"searches may start from {fmt.count(settings['starts'])} images of the set, of other classes")
    if len(models) > 1:
        words.append(f"the numbers are those of {fmt.clean(models[0])}, whose examples are fed to all")
    return "; ".join(words) + "." if words else ""


def _facts(run: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what else the strip says: time and device."""
    seconds = audit_numbers.duration(_part(run, "time").get("seconds"))
    devices = list(dict.fromkeys(fmt.clean(m["device"]) for m in models if m.get("device")))
    return [(name, text) for name, text in (("time", seconds), ("device", ", ".join(devices))) if text]
