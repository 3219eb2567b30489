"""The section of an audit on what lies between proof and attack: what the page shows of the document's certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intriguing import documents
from intriguing.report import format as fmt

_MIDDLE = 0.25  # radii whose middle lies nearer to zero than this share of the largest stand on a logarithmic axis
_LISTED = 4  # models whose curves are listed as numbers one by one
_NORMS = {"2": "L2", "inf": "Linf"}
_FIGURES = (
    ("certified_{}", "certified radius, median", "number"),
    ("median_{}", "distance found, median", "number"),
    ("tightness_{}", "certified / found, median", "percent"),
    ("certified", "certified at all", "percent"),
)
_BY_NORMS = "by the product of the layers’ norms alone"


def norm_of(given: Mapping[str, Any]) -> str:
    """Return what a reader calls the norm of the certificates."""
    return _NORMS.get(str(given.get("norm")), fmt.clean(given.get("norm")))


def models(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the models that have certificates."""
    return [model for model in given.get("models") or () if isinstance(model, Mapping)]


def band(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the picture of both accuracies along the radius, a panel per model."""
    norm, held = norm_of(given), models(given)
    bands: list[dict[str, Any]] = [
        {
            "label": fmt.clean(model.get("name", "")),
            "radii": [r or 0.0 for r in documents.numbers(model, "radii")],
            "certified": [share or 0.0 for share in documents.numbers(model, "certified_accuracy")],
            "found": [share or 0.0 for share in documents.numbers(model, "robust_accuracy")],
        }
        for model in held
    ]
    bands = [b for b in bands if len(b["radii"]) == len(b["certified"]) == len(b["found"])]
    positive = sorted(r for b in bands for r in b["radii"] if r > 0)
    log = bool(positive) and positive[len(positive) // 2] < _MIDDLE * positive[-1]
    size = fmt.count(held[0].get("n")) if held else ""
    # With several models the panels say whose each is.
    return {
        "kind": "ends",
        "title": "",
        "caption": "Solid, below: the share of all images that are answered rightly whatever happens within the "
        f"{norm} distance, by proof. Dashed, above: the share for which no attack found an example within it. The "
        "truth lies in the band. A better proof lifts its lower edge, a better attack lowers the upper one."
        f"{' On this axis equal widths are equal ratios.' if log else ''} n {size}.",
        "x": f"distance, {norm}, in pixel units",
        "y": "share of images right within the distance",
        "log_x": log,
        "bands": bands,
        "key": [],
    }


def cells(given: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of the table of both ends: a row per model, with intervals and the control."""
    short = norm_of(given).lower()
    found = []
    for k, model in enumerate(models(given)):
        prefix = "" if k == 0 else f"{model.get('name', '')}/"
        for pattern, column, unit in _FIGURES:
            figure = figures.get(prefix + pattern.format(short))
            if not isinstance(figure, Mapping):
                continue
            control = figure.get("control")
            beside = isinstance(control, Mapping) and not pattern.startswith("median")
            found.append(
                {
                    "row": model.get("name", ""),
                    "column": column,
                    "kind": "sampled",
                    "unit": unit,
                    "measured": documents.number(figure, "value"),
                    "n": figure.get("n"),
                    "low": documents.number(figure, "low"),
                    "high": documents.number(figure, "high"),
                    "control": {"label": _BY_NORMS, "measured": documents.number(control, "value"), "unit": unit}
                    if beside and control is not None
                    else None,
                }
            )
    return found


def cost(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the picture of every method's share of the distance found, against what it costs."""
    held = models(given)
    lines = [
        {
            "label": fmt.clean(model.get("name", "")),
            "points": [
                {
                    "label": fmt.clean(entry.get("method", "")),
                    "x": documents.number(entry, "seconds"),
                    "y": documents.number(entry, "ratio"),
                    "low": documents.number(entry, "low"),
                    "high": documents.number(entry, "high"),
                }
                for entry in model.get("methods") or ()
            ],
        }
        for model in held
    ]
    counts = [entry["n"] for model in held for entry in model.get("methods") or () if entry.get("n")]
    return {
        "kind": "cost",
        "title": "What a longer proof buys",
        "caption": "The median of certified over found by each method, against the seconds it takes for an image on "
        "the machine of this run. At 100% nothing is left to find or to prove. Bars are 95% intervals; "
        f"n {fmt.count(max(counts, default=None))}, spread over the set.",
        "x": "seconds per image",
        "y": "certified / found, median",
        "lines": lines,
        "key": [],
    }


def tables(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the same as numbers: quantiles of each model, every method, and the curves."""
    norm, held = norm_of(given), models(given)
    found = [_quantiles(model, norm) for model in held]
    found.append(
        {
            "title": "Every method as numbers",
            "caption": "On the same few images, spread over the set, crown-optimised for 20 steps. A method that was "
            "left out says why.",
            "columns": ["model", "method", "seconds per image", "certified / found, median", "95% interval", "n"],
            "rows": [
                [
                    fmt.clean(model.get("name", "")),
                    fmt.clean(entry.get("method", "")),
                    fmt.number(documents.number(entry, "seconds"), places=fmt.own_decimals(entry.get("seconds"), 2)),
                    fmt.number(documents.number(entry, "ratio"), "percent", 1)
                    if not entry.get("note")
                    else entry["note"],
                    fmt.interval(documents.number(entry, "low"), documents.number(entry, "high"), "percent", 1),
                    fmt.count(entry.get("n")),
                ]
                for model in held
                for entry in model.get("methods") or ()
            ],
        }
    )
    return [*found, *(_curve(model, norm) for model in held[:_LISTED])]


def _quantiles(model: Mapping[str, Any], norm: str) -> dict[str, Any]:
    held = model.get("quantiles")
    quantiles: Mapping[str, Any] = held if isinstance(held, Mapping) else {}
    columns = {name: documents.numbers(quantiles, name) for name in ("shares", "certified", "found", "ratio")}
    return {
        "title": f"Both ends of {fmt.clean(model.get('name', ''))}, quantiles",
        "caption": f"{norm}, in pixel units. Distances over the images that are answered rightly, ratios over those "
        "with an example; each column by itself, smallest first.",
        "columns": ["of the images", "certified radius", "distance found", "certified / found"],
        "rows": [
            [fmt.number(share, "percent"), _length(low), _length(high), fmt.number(ratio, "percent", 1)]
            for share, low, high, ratio in zip(*columns.values(), strict=False)
        ],
    }


def _length(value: float | None) -> str:
    return fmt.number(value, places=fmt.own_decimals(value))


def _curve(model: Mapping[str, Any], norm: str) -> dict[str, Any]:
    columns = [documents.numbers(model, name) for name in ("radii", "certified_accuracy", "robust_accuracy")]
    return {
        "title": f"The band of {fmt.clean(model.get('name', ''))} as numbers",
        "caption": "A proved share holds from the distance before to its own, one that no attack broke from its own "
        "distance to the next.",
        "columns": [f"{norm} distance", "proved", "no attack broke"],
        "rows": [
            [_length(r), fmt.number(low, "percent", 1), fmt.number(high, "percent", 1)]
            for r, low, high in zip(*columns, strict=False)
        ],
    }


def reading(given: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Say in words what the band shows."""
    held, short = models(given), norm_of(given).lower()
    ratios = [_figure(figures, held, k, f"tightness_{short}") for k in range(len(held))]
    first = (
        "For every image the distance to the nearest mistake is unknown, but it has two ends: no change smaller than "
        "the certified radius alters the answer, and the example found shows one that does."
    )
    known = [r for r in ratios if fmt.finite(r) is not None]
    if len(held) == 1 and known:
        return f"{first} For half of the images the proof reaches {_percent(known[0])} of the way or more."
    if len(held) > 1 and len(known) == len(held):
        best = max(range(len(held)), key=lambda k: known[k] or 0.0)
        names = [fmt.clean(model.get("name", "")) for model in held]
        radii = [_figure(figures, held, k, f"certified_{short}") for k in range(len(held))]
        ways = [f"{_percent(ratio)} of the way for {name}" for ratio, name in zip(known, names, strict=True)]
        return (
            f"{first} The narrower its band, the more is known of a model: the proof reaches "
            f"{_listed(ways)} (medians), the farthest for {names[best]}.{_farthest(names, radii)}"
        )
    return first


def _figure(figures: Mapping[str, Any], held: Sequence[Mapping[str, Any]], place: int, name: str) -> float | None:
    """Return the value of a model's figure; None where there is none."""
    figure = figures.get(name if place == 0 else f"{held[place].get('name', '')}/{name}")
    return documents.number(figure, "value") if isinstance(figure, Mapping) else None


def _farthest(names: Sequence[str], radii: Sequence[float | None]) -> str:
    """Say which model has the largest certified radius."""
    known = [(radius, name) for radius, name in zip(radii, names, strict=True) if fmt.finite(radius) is not None]
    if not known:
        return ""
    radius, name = max(known, key=lambda pair: pair[0] or 0.0)
    return f" The largest radius, {_length(radius)} in the median, is proved for {name}."


def _percent(value: float | None) -> str:
    return fmt.number(value, "percent", 0)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
