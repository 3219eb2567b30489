"""Unsupervised features by sparse reconstruction, and a binary head on them while they stay frozen.

Le et al. 2012 (arXiv:1112.6209), equation 1, stage by stage, for a locally connected W (see `nets.quocnet`):

    minimise over W      mean over images of |W^T W x - x|^2 + lambda sum_j sqrt(eps + sum over window j of (W x)^2)

with lambda = 0.1 as printed; x is what the stage below puts out, for the first stage the pixels minus 0.5. No label
enters. DEVIATION: the decoder is the transpose of the encoder, as in reconstruction ICA (Le, Karpenko, Ngiam and Ng
2011), which they build on; they learn the two apart.

The head is logistic regression of one class against the rest, both sides weighted equally. Szegedy et al. 2014 had
cars; here the class is the one that such heads tell apart best in cross-validation on the training images. No test
image has a part in that choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own abbreviation)

from intriguing import rng
from intriguing.errors import DataError, InputError, ModelError
from intriguing.floating import denormals_flushed
from intriguing.nets.quocnet import LocallyConnected, detector
from intriguing.records import Images, Inputs, Record
from intriguing.training import loops

CENTRE = 0.5  # taken from the pixels: the filters have no bias
_FOLDS = 4
_BATCH = 200  # images whose features are computed at once
_SHUFFLES = 10  # heads on shuffled labels; one alone may point anywhere, since the images of a class lie together
_ITERATIONS = 5000  # of the head at most; it needs a few hundred


def learn_features(
    inputs: Inputs,
    *,
    seed: int,
    prefix: str,
    size: int,
    sizes: Mapping[str, Any],
    images: int = 2000,
    steps: int = 100,
    batch: int = 50,
    rate: float = 0.003,
    sparsity: float = 0.1,
    decay: float = 1.0,
) -> Record:
    """Learn the features without labels, freeze them, and put a head for one class on top; a cell function.

    Args:
        inputs: data ``"<prefix>train"`` and ``"<prefix>test"``. A need called ``"learned"``, if there is one, is a
            record of this function whose class is taken over; otherwise the class is chosen (see above).
        seed: draws weights, images, their order and the folds.
        prefix: ``""`` for the run's own images, ``"photographs/"`` for the photographs.
        size: side in pixels to which the images are averaged down; smaller images stay as they are.
        sizes: of the net: ``stages``, ``maps``, ``field``, ``pool``, ``window``, ``padded``; see `nets.quocnet`.
        images: at most so many of each split, drawn at random.
        steps: of Adam, per stage; 0 leaves the weights as they were drawn: the control.
        batch: images per step.
        rate: highest learning rate.
        sparsity: lambda.
        decay: of the head's weights on standardised features, (decay / 2) sum w^2 beside the mean loss.

    Returns:
        A record. ``tensors`` is the state dict of the detector (features and head). ``values`` holds the ``net``
        (arguments of `detector`), ``positive`` (class index), ``class`` (its name), ``classes`` (all names),
        ``scores`` (balanced accuracy of each in cross-validation, where one was chosen), ``parameters`` (of the
        features), ``stages`` (per stage the share of the input's energy left out of the reconstruction, and the
        sparsity term, before and after), and under ``"train"``, ``"test"``, ``"shuffled"`` (ten heads that learnt
        shuffled labels, a list) and ``"pixels"`` (a head on pixels in place of features), each on the test images
        but for the first, ``hits`` of ``positives`` and ``passes`` of ``negatives``.

    Raises:
        InputError: settings out of range, or a net that does not fit into the images.
        DataError: no class with enough images on either side.
    """
    if steps < 0 or min(images, size, batch) < 1 or not rate > 0 or not decay > 0 or sparsity < 0:
        raise InputError(
            "images, size, batch, rate and decay must be positive, steps and sparsity at least 0, got "
            f"{images}, {size}, {batch}, {rate}, {decay}, {steps}, {sparsity}"
        )
    train, labels, _ = prepared(inputs.data(f"{prefix}train"), images, size, seed)
    test, truth, _ = prepared(inputs.data(f"{prefix}test"), images, size, seed)
    channels, side = train.shape[1], train.shape[-1]
    net = {"side": side, "channels": channels, **sizes}
    draw = rng.generator("features", seed)
    module = detector(**net, generator=draw)
    features = module.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    with denormals_flushed():
        stages = _learn(features, train - CENTRE, steps, batch, rate, sparsity, draw, inputs) if steps else []
        known, unseen = _features(features, train), _features(features, test)
    classes = inputs.data(f"{prefix}train").classes
    scores: list[float] = []
    if "learned" in inputs.needs:
        positive = int(inputs.needs["learned"].values["positive"])
    else:
        positive, scores = _choose(known, labels, len(classes), decay, seed)
    is_one, is_really = labels == positive, truth == positive
    weight, bias = _head(known, is_one, decay)
    with torch.no_grad():
        head = module.get_submodule("head")
        assert isinstance(head, nn.Linear)
        head.weight.copy_(weight)
        head.bias.fill_(bias)
    draw = rng.generator("shuffled labels", seed)
    shuffled = [is_one[torch.randperm(len(is_one), generator=draw)] for _ in range(_SHUFFLES)]
    raw, raw_unseen = (x.flatten(1).double() for x in (train, test))
    values = {
        "net": net,
        "prefix": prefix,
        "size": size,
        "images": images,
        "seed": seed,
        "steps": steps,
        "positive": positive,
        "class": classes[positive],
        "classes": list(classes),
        "scores": scores,
        "parameters": sum(parameter.numel() for parameter in features.parameters()),
        "stages": stages,
        "train": _counts(known, is_one, weight, bias),
        "test": _counts(unseen, is_really, weight, bias),
        "shuffled": [_counts(unseen, is_really, *_head(known, aimless, decay)) for aimless in shuffled],
        "pixels": _counts(raw_unseen, is_really, *_head(raw, is_one, decay)),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return Record(values=values, tensors=tensors)


def restore(record: Record) -> nn.Sequential:
    """Return the detector of a record of `learn_features`, in evaluation mode: (B, C, S, S) - 0.5 -> (B, 1).

    Raises:
        ModelError: the record's weights do not fit the net it names.
    """
    module = detector(**record.values["net"])
    try:
        module.load_state_dict(dict(record.tensors))
    except RuntimeError as error:
        raise ModelError(
            f"the stored weights do not fit the net {record.values['net']}; train it again with `learn_features`."
        ) from error
    return module.requires_grad_(False).eval()


def prepared(data: Images, images: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return at most `images` images averaged down to `size`, their labels, and their places in the set.

    Returns:
        (N, C, S, S) float32 in [0, 1], (N,) int64 and (N,) int64 in increasing order.
    """
    total = len(data.labels)
    ids = torch.randperm(total, generator=rng.generator(f"feature images/{total}", seed))[:images].sort().values
    x = data.images[ids].float()
    side = min(size, *x.shape[-2:])
    small: Tensor = F.adaptive_avg_pool2d(x, side)
    return small.clamp(0, 1), data.labels[ids], ids


def _learn(
    features: nn.Sequential,
    x: Tensor,
    steps: int,
    batch: int,
    rate: float,
    sparsity: float,
    draw: torch.Generator,
    inputs: Inputs,
) -> list[dict[str, float]]:
    """Learn stage after stage from what the stages below put out; return what it did to each."""
    layers = list(features)
    reports = []
    per_epoch = -(-len(x) // batch)
    epochs = max(1, round(steps / per_epoch))
    for place in range(0, len(layers), 3):
        encoder, pool, normal = layers[place : place + 3]
        assert isinstance(encoder, LocallyConnected)

        def parts(seen: Tensor, encoder: LocallyConnected = encoder, pool: nn.Module = pool) -> tuple[Tensor, Tensor]:
            z = encoder(seen)
            error: Tensor = (encoder.decode(z) - seen).square().sum() / len(seen)
            active: Tensor = pool(z).sum() / len(seen)
            return error, active

        def objective(indices: Tensor, x: Tensor = x, parts: Any = parts) -> Tensor:
            error, active = parts(x[indices])
            loss: Tensor = error + sparsity * active
            return loss

        def after_epoch(epoch: int, stage: int = place // 3) -> bool:
            inputs.progress(stage * epochs + epoch, len(layers) // 3 * epochs)
            return False

        sample = x[:_BATCH]
        energy = sample.square().sum().item() / len(sample)
        with torch.no_grad():
            before = [part.item() for part in parts(sample)]
        groups: list[dict[str, object]] = [{"params": [encoder.weight], "weight_decay": 0.0}]
        loops.descend(
            groups,
            objective,
            len(x),
            epochs=epochs,
            batch=batch,
            rate=rate,
            generator=draw,
            after_epoch=after_epoch,
        )
        encoder.requires_grad_(False)
        with torch.no_grad():
            after = [part.item() for part in parts(sample)]
            x = torch.cat([normal(pool(encoder(part))) for part in torch.split(x, _BATCH)])
        reports.append(
            {
                "left_out_before": before[0] / energy,
                "left_out_after": after[0] / energy,
                "active_before": before[1],
                "active_after": after[1],
            }
        )
    return reports


@torch.no_grad()
def _features(features: nn.Sequential, images: Tensor) -> Tensor:
    """Return the features of images in [0, 1], (N, n) float64."""
    return torch.cat([features(part - CENTRE).flatten(1).double() for part in torch.split(images, _BATCH)])


def _choose(features: Tensor, labels: Tensor, classes: int, decay: float, seed: int) -> tuple[int, list[float]]:
    """Return the class whose heads are right most often in cross-validation, both sides alike, and all scores."""
    from sklearn.model_selection import StratifiedKFold  # here, as it is slow to import

    draw = int(torch.randint(2**31, (1,), generator=rng.generator("folds", seed)))
    scores = []
    for candidate in range(classes):
        is_one = labels == candidate
        count = int(is_one.sum())
        if min(count, len(labels) - count) < _FOLDS:
            scores.append(0.0)
            continue
        total = {"hits": 0, "positives": 0, "passes": 0, "negatives": 0}
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=draw)
        for kept, held in folds.split(features, is_one):
            weight, bias = _head(features[kept], is_one[kept], decay)
            counted = _counts(features[held], is_one[held], weight, bias)
            total = {name: total[name] + counted[name] for name in total}
        scores.append((total["hits"] / total["positives"] + total["passes"] / total["negatives"]) / 2)
    best = max(range(classes), key=lambda candidate: scores[candidate])
    if not scores[best] > 0:
        raise DataError(
            f"a head for one class against the rest needs a class with at least {_FOLDS} training images, and as many "
            f"of others, but none of the {classes} classes has; take more images"
        )
    return best, scores


def _head(features: Tensor, is_one: Tensor, decay: float) -> tuple[Tensor, float]:
    """Return weight (n,) and bias of logistic regression on standardised features, folded back onto the features."""
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    x = ((features - mean) / deviation).numpy()
    # Its C weighs the sum of the losses against half the squared weights; ours is the mean, and `decay` the reverse.
    solver = LogisticRegression(C=1 / (decay * len(x)), class_weight="balanced", max_iter=_ITERATIONS)
    solver.fit(x, is_one.numpy())
    weight = torch.from_numpy(solver.coef_[0]) / deviation
    return weight, float(solver.intercept_[0]) - float(weight @ mean)


def _counts(features: Tensor, is_one: Tensor, weight: Tensor, bias: float) -> dict[str, int]:
    """Return how many positives are called so, and how many negatives."""
    said = features @ weight + bias > 0
    return {
        "hits": int((said & is_one).sum()),
        "positives": int(is_one.sum()),
        "passes": int((~said & ~is_one).sum()),
        "negatives": int((~is_one).sum()),
    }
