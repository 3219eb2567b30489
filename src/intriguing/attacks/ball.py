"""The points an attack of fixed size may use: a ball around each image, cut by the box.

Every point that leaves `Ball.project` is in the ball exactly, in float64 and measured from the image as the user gave
it: where rounding to a dtype would leave the ball, the pixel is rounded towards the image instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intriguing import norms
from intriguing.attacks.base import Trial
from intriguing.rng import Streams


class Ball:
    """Balls of one radius and norm around images, intersected with the box.

    Args:
        centre: (N, n) the images, in their own dtype.
        eps: radius in pixel units, at least 0.
        norm: 1, 2 or inf.
        box: lowest and highest pixel.
        dtype: of the points, that of the model.
        grid: the dtype whose values the points take, which both the model and the returned images hold; that of the
            points by default.

    Example:
        >>> ball = Ball(images.flatten(1), 0.1, math.inf, (0.0, 1.0), torch.float32)
        >>> x = ball.project(x + 0.01 * ball.ascent(gradient), image)
    """

    def __init__(
        self,
        centre: Tensor,
        eps: float,
        norm: float,
        box: tuple[float, float],
        dtype: torch.dtype,
        grid: torch.dtype | None = None,
    ) -> None:
        self.eps, self.norm, self.box, self.dtype, self.grid = eps, float(norm), box, dtype, grid or dtype
        self.centre = centre.double()
        # An image that the grid cannot hold is off by so much before it is changed at all.
        off = torch.linalg.vector_norm(self.centre - self.centre.to(self.grid).double(), ord=self.norm, dim=1)
        self._radius = (eps - off).clamp_min(0)
        if self.norm == math.inf:
            # The cube cut by the box is a box of its own: its sides are rounded once.
            low, high = ((self.centre + side).clamp(*box) for side in (-eps, eps))
            self._low, self._high = self._rounded(low, self.centre), self._rounded(high, self.centre)

    @classmethod
    def around(cls, trial: Trial, eps: float, norm: float) -> Ball:
        """Return the balls around the images of a trial."""
        centre = trial.original.flatten(1).to(trial.clean.device)
        # `Trial.result` returns no less than float32.
        dtypes = (trial.clean.dtype, torch.promote_types(centre.dtype, torch.float32))
        coarser = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
        return cls(centre, eps, norm, trial.model.box, trial.clean.dtype, coarser)

    def project(self, x: Tensor, image: Tensor) -> Tensor:
        """Return the nearest points (k, n) of the balls of the images `image` (k,), in the model's dtype.

        Args:
            x: (k, n) floating point.
            image: (k,) indices.
        """
        if self.norm == math.inf:
            inside = torch.minimum(torch.maximum(x.to(self.grid), self._low[image]), self._high[image])
            return inside.to(self.dtype)
        centre = self.centre[image]
        low, high = self.box[0] - centre, self.box[1] - centre
        r = norms.project_ball_in_box(x.double() - centre, self._radius[image], low, high, self.norm)
        return self._rounded(centre + r, centre).to(self.dtype)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the directions (k, n) of steps: the sign for Linf, unit length for L2, no entry above 1 for L1.

        For Linf and L2 that is the steepest step of size 1. The steepest of L1 moves a single pixel; here the gradient
        itself is followed, and it is the projection that makes points sparse. A gradient of zero, or one that is not
        finite, gives no direction.
        """
        gradient = torch.where(gradient.isfinite().all(1, keepdim=True), gradient, 0.0)
        if self.norm == math.inf:
            return gradient.sign()
        # In float64, and over the largest entry first: squares of small gradients would underflow.
        wide = gradient.double()
        wide = wide / wide.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        if self.norm == 2:
            wide = wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(1e-300)
        return wide.to(gradient.dtype)

    def random(self, streams: Streams, image: Tensor, draw: int) -> Tensor:
        """Return points (k, n) drawn uniformly from the balls, then moved into the box.

        Args:
            streams: where the numbers come from.
            image: (k,) indices.
            draw: which draw of each image's stream; see `rng.Streams`.
        """
        centre = self.centre[image]
        n = centre.shape[1]
        u = streams.uniform(image, 2 * n + 1, draw)
        radius = u[:, -1:] ** (1 / n)
        if self.norm == math.inf:
            r = 2 * u[:, :n] - 1
        elif self.norm == 2:
            r = torch.special.ndtri(u[:, :n])
            r = radius * r / torch.linalg.vector_norm(r, dim=1, keepdim=True)
        else:
            # Signed exponentials over their sum are uniform on the L1 sphere.
            r = -u[:, :n].log()
            r = radius * r / r.sum(1, keepdim=True) * torch.where(u[:, n : 2 * n] < 0.5, -1.0, 1.0)
        return self.project(centre + self.eps * r, image)

    def _rounded(self, x: Tensor, centre: Tensor) -> Tensor:
        """Return float64 points (k, n) on the grid, no pixel farther from its centre than it was."""
        y = x.to(self.grid)
        farther = (y.double() - centre).abs() > (x - centre).abs()
        return torch.where(farther, torch.nextafter(y, centre.to(self.grid)), y)
