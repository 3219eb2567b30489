"""A small audit for tests to run, stop and damage: ``python small_audit.py OUT WORKERS [METHOD]`` prints each step."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from intriguing import auditing
from intriguing.run.events import Event

NET = '''
    """A net for the digits, trained in a moment from a fixed seed."""

    import torch
    from torch import nn

    from intriguing import Model, data


    def build(seed=0, steps=60):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
        train = data.load("digits", "train")
        for _ in range(steps):  # by hand: an optimizer of torch takes seconds to import
            loss = nn.functional.cross_entropy(net(train.images), train.labels)
            with torch.no_grad():
                for parameter, slope in zip(net.parameters(), torch.autograd.grad(loss, net.parameters())):
                    parameter -= slope
        return net


    def other():
        return build(1)


    def untrained():
        net = build(0, steps=0)
        for parameter in net.parameters():
            parameter.data.zero_()
        return net


    def sized():
        return Model(build(), size=8)


    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(1).values


    def unbounded():
        net = build()
        return nn.Sequential(net[0], Sorted(), *net[1:])
'''
OPTIONS: dict[str, Any] = {"attacks": ["lbfgs"], "images": 40, "budget": 60, "shard_images": 8}


def net(folder: Path) -> Path:
    """Write the file of the nets and return its path."""
    place = folder / "net.py"
    place.write_text(textwrap.dedent(NET))
    return place


def audit(out: Path, models: Any, **options: Any) -> auditing.Outcome:
    """Run the audit, by default in this process."""
    return auditing.audit(models, "digits", out=out, **{"workers": 1, **OPTIONS, **options})


def main() -> None:
    """Run it."""
    out, workers, certify = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else False

    def told(event: Event) -> None:
        sys.stdout.write(f"{event.kind} {event.label}\n")
        sys.stdout.flush()

    audit(out, f"{out.parent / 'net.py'}:build", workers=workers, certify=certify, progress=told)


if __name__ == "__main__":
    main()
