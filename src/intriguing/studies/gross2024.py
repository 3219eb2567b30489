"""Gross et al. 2024: Compact proofs of model performance via mechanistic interpretability. arXiv:2406.11779."""

from __future__ import annotations

from intriguing.bounds.compact import PROOFS
from intriguing.experiments import compact_proofs
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings, Study

_SEEDS = 3  # nets where not all are asked for
_LENGTH = 4  # the paper's K
_SMALL, _FULL = 32, 64  # tokens; the paper's are 64, whose 16.8 million sequences take a minute per net


def _proofs(settings: Settings) -> Cell:
    vocabulary = _FULL if settings.full else _SMALL
    seeds = [settings.seed + index for index in range(max(5, settings.nets) if settings.full else _SEEDS)]
    needs: dict[str, Cell] = {}
    for seed in seeds:
        for name, steps in (("trained", {}), ("untrained", {"steps": 0})):
            said = f"max of {_LENGTH}, {name}, seed {seed}"
            net = Cell(
                "intriguing.training.max_of_k:train",
                {"vocabulary": vocabulary, "length": _LENGTH, "seed": seed, **steps},
                label=f"train {said}" if not steps else said,
            )
            needs[f"{seed}/{name}"] = Cell(
                "intriguing.experiments.compact_proofs:proofs", needs={"net": net}, label=f"prove {said}"
            )
    chosen = {"vocabulary": vocabulary, "length": _LENGTH, "seeds": seeds, "seed": settings.seed}
    return Cell(
        "intriguing.experiments.compact_proofs:compact_proofs", chosen, needs=needs, label="cost against tightness"
    )


_RISING = tuple(reversed(PROOFS))

COMPACT_PROOFS = Exhibit(
    name="compact-proofs",
    title="What does a proof of accuracy cost?",
    claim="A small transformer's accuracy over all inputs can be bounded from below without running them. The more is "
    "understood of how it works, the tighter the bound at the same cost; without it, cheaper proofs are looser.",
    reading="Every proof is a computation whose result cannot exceed the truth; the truth is known by brute force. "
    "From top to bottom proofs get cheaper and looser. 'Exact cases' minimises over sequences that share the last "
    "token, the largest, how often it occurs and the largest of the rest; 'cubic' bounds these cases knowing that the "
    "attention head copies what it attends to, and the next one without knowing it; 'quadratic' bounds attention and "
    "values apart; 'low rank' does not even multiply the attention scores out. On untrained nets all are sound too, "
    "and there is next to nothing to certify. The printed values are from memory, of nets with 64 tokens "
    "(as in a full run; otherwise 32). The bounds here are of other proofs than the paper's: the sum of the softmax is "
    "left out, which makes them separable.",
    source="sections 4 and 5",
    cell=_proofs,
    printed={
        ("brute force", compact_proofs.CERTIFIED): Printed(0.9992, "m", 0.0001),
        ("cubic", compact_proofs.CERTIFIED): Printed(0.985, "m", 0.001),
        ("quadratic", compact_proofs.CERTIFIED): Printed(0.83, "m", 0.01),
    },
    orderings=(
        tuple((name, compact_proofs.CERTIFIED) for name in _RISING if name != "exact cases"),
        tuple((name, compact_proofs.OPERATIONS) for name in _RISING),
    ),
)

GROSS_2024 = Study(
    name="gross2024",
    title="Compact proofs of model performance",
    citation="J. Gross, R. Agrawal, T. Kwa, E. Ong, C. H. Yip, A. Gibson, S. Noubir, L. Chan. Compact Proofs of Model "
    "Performance via Mechanistic Interpretability. NeurIPS 2024, arXiv:2406.11779.",
    summary="In 2024 a paper asked how short a proof of a network's accuracy over all inputs can be, and found that "
    "understanding the network makes proofs shorter. This page proves the accuracy of small transformers that name "
    "the largest of a few tokens, in several ways of different cost, and holds each bound to the truth. No images are "
    "used.",
    exhibits=(COMPACT_PROOFS,),
)
