"""Known truth for tests: problems with known minima, the exact nearest adversarial example of a linear net.

Nothing here uses the library's own code, so that agreement with it means something. The problems themselves
are tested in `test_truth.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch

Value = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """A function to minimise in a box, all rows of a batch alike.

    Attributes:
        name: what a failing test prints.
        value: (b, n) -> (b,), differentiable by autograd, rows independent.
        start, lower, upper: (n,) float64; bounds may be infinite.
        minimum, minimiser: the smallest value in the box and where it is taken, where known in closed form.
        tolerance: a projected gradient at which the value is within `slack()` of the minimum, from curvature.
        scale: the natural size of differences of the value, for relative errors where the minimum is 0.
        unique: whether every stationary point a descent from `start` may reach has the same value.
    """

    name: str
    value: Value
    start: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    minimum: float | None = None
    minimiser: torch.Tensor | None = None
    tolerance: float = 1e-6
    scale: float = 1.0
    unique: bool = True

    @property
    def n(self) -> int:
        return self.start.numel()

    def fun(self, x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value and gradient of each row, as the solver asks for them; `rows` does not matter here."""
        return value_and_gradient(self.value, x)

    def numpy(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient of one point, as SciPy asks for them."""
        f, g = value_and_gradient(self.value, torch.from_numpy(x)[None])
        return f.item(), g[0].numpy()

    def slack(self, reference: float) -> float:
        """Return the difference allowed to a value whose true size is `reference`: 1e-6 relative."""
        return 1e-6 * max(self.scale, abs(reference))


def value_and_gradient(value: Value, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (b,) values and (b, n) gradients of a row-wise function."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        f = value(x)
        (g,) = torch.autograd.grad(f.sum(), x)
    return f.detach(), g


def projected_gradient(x: torch.Tensor, g: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute entry of x - P(x - g) per row: 0 exactly at stationary points."""
    return (x - torch.minimum(torch.maximum(x - g, lower), upper)).abs().amax(-1)


def by_scipy(problem: Problem) -> tuple[np.ndarray, float, int]:
    """Minimiser, minimum and evaluations by SciPy's L-BFGS-B at its tightest tolerances."""
    options = {"maxcor": 20, "ftol": 0.0, "gtol": 0.0, "maxiter": 20_000, "maxfun": 40_000, "maxls": 50}
    bounds = scipy.optimize.Bounds(problem.lower.numpy(), problem.upper.numpy())
    found = scipy.optimize.minimize(
        problem.numpy, problem.start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return found.x, float(found.fun), int(found.nfev)


def _full(n: int, value: float) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def _vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def quadratic(condition: float, n: int = 30, seed: int = 0, *, name: str = "", active: bool = True) -> Problem:
    """Return a convex quadratic whose minimiser is known by construction, a third of it at each bound.

    f = 1 + (x-m)'H(x-m)/2 + q'(x-m) with q > 0 where m is at its lower bound, q < 0 at its upper, else 0: the
    conditions of Karush, Kuhn and Tucker hold at m. Eigenvalues lie evenly on a log scale within
    condition^(-1/2) .. condition^(1/2).
    """
    rng = np.random.default_rng(seed)
    eigenvalues = np.geomspace(condition**-0.5, condition**0.5, n)
    basis = torch.from_numpy(_orthogonal(n, rng))
    centre = torch.from_numpy(rng.uniform(-1, 1, n))
    kind = torch.from_numpy(rng.permutation(n) % 3) if active else torch.zeros(n, dtype=torch.int64)
    lower, upper = centre - 1.0, centre + 1.0
    lower, upper = torch.where(kind == 1, centre, lower), torch.where(kind == 1, centre + 2, upper)
    lower, upper = torch.where(kind == 2, centre - 2, lower), torch.where(kind == 2, centre, upper)
    size = torch.from_numpy(rng.uniform(0.5, 2.0, n))
    slope = torch.where(kind == 1, size, 0.0) - torch.where(kind == 2, size, 0.0)
    roots = torch.from_numpy(np.sqrt(eigenvalues))
    if not active:
        lower, upper = _full(n, -math.inf), _full(n, math.inf)

    def value(x: torch.Tensor) -> torch.Tensor:
        d = x - centre.to(x)
        return 1 + 0.5 * ((d @ basis.to(x)) * roots.to(x)).square().sum(-1) + (d * slope.to(x)).sum(-1)

    start = torch.minimum(torch.maximum(centre + torch.from_numpy(rng.uniform(-1, 1, n)), lower), upper)
    return Problem(name or f"quadratic {condition:.0e}", value, start, lower, upper, 1.0, centre)


def _rosenbrock(x: torch.Tensor) -> torch.Tensor:
    head, tail = x[..., :-1], x[..., 1:]
    return (100 * (tail - head.square()).square() + (1 - head).square()).sum(-1)


def rosenbrock(n: int) -> Problem:
    """Return the chained function in [-2, 2]^n; ahead of the start only (1, ..., 1) is stationary."""
    start = _vector(-1.2, 1.0) if n == 2 else _full(n, 0.5)
    return Problem(f"rosenbrock {n}", _rosenbrock, start, _full(n, -2), _full(n, 2), 0.0, _full(n, 1))


def rosenbrock_cut() -> Problem:
    """Return the plane function with x1 <= 1/2: x2 = x1^2 costs nothing, so f = (1 - x1)^2 ends at 1/4."""
    lower, upper = _vector(-2, -2), _vector(0.5, 2)
    return Problem("rosenbrock cut", _rosenbrock, _vector(-1.2, 1.0), lower, upper, 0.25, _vector(0.5, 0.25))


def rosenbrock_tight(n: int = 10) -> Problem:
    """Return the chained function in [-0.5, 0.8]^n: no closed form."""
    return Problem("rosenbrock tight", _rosenbrock, _full(n, 0.5), _full(n, -0.5), _full(n, 0.8))


def logistic(n: int = 12, seed: int = 0) -> Problem:
    """Return logistic regression of 60 points in the box [-0.5, 0.5]^n, a ridge of 1e-2: strictly convex."""
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.standard_normal((60, n)))
    signs = torch.from_numpy(np.where(rng.standard_normal(60) + points.numpy() @ np.ones(n) > 0, 1.0, -1.0))

    def value(x: torch.Tensor) -> torch.Tensor:
        margins = (x @ points.to(x).T) * signs.to(x)
        return torch.nn.functional.softplus(-margins).mean(-1) + 5e-3 * x.square().sum(-1)

    return Problem(f"logistic {n}", value, _full(n, 0.0), _full(n, -0.5), _full(n, 0.5))


def separable(n: int = 12, seed: int = 0) -> Problem:
    """Return sum exp(x_i) - a_i x_i in [-1, 1]^n: the minimiser is log a_i, clipped."""
    a = torch.from_numpy(np.random.default_rng(seed).uniform(0.05, 6.0, n))
    minimiser = a.log().clamp(-1, 1)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (x.exp() - a.to(x) * x).sum(-1)

    return Problem(
        f"separable {n}",
        value,
        _full(n, 0.0),
        _full(n, -1),
        _full(n, 1),
        value(minimiser).item(),
        minimiser,
    )


def powell_singular(n: int = 8) -> Problem:
    """Return Powell's function (Hessian singular at the minimiser 0), n a multiple of 4."""

    def value(x: torch.Tensor) -> torch.Tensor:
        a, b, c, d = x[..., 0::4], x[..., 1::4], x[..., 2::4], x[..., 3::4]
        terms = (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4
        return terms.sum(-1)

    start = _vector(3, -1, 0, 1).repeat(n // 4)
    return Problem(f"powell singular {n}", value, start, _full(n, -4), _full(n, 5), 0.0, _full(n, 0))


def beale() -> Problem:
    def value(x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., 0], x[..., 1]
        return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2

    return Problem("beale", value, _vector(1, 1), _full(2, -4.5), _full(2, 4.5), 0.0, _vector(3, 0.5))


def booth() -> Problem:
    def value(x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., 0], x[..., 1]
        return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2

    return Problem("booth", value, _vector(-8, 9), _full(2, -10), _full(2, 10), 0.0, _vector(1, 3))


def wood() -> Problem:
    def value(x: torch.Tensor) -> torch.Tensor:
        a, b, c, d = x.unbind(-1)
        first = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
        return first + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)

    return Problem("wood", value, _vector(-3, -1, -3, -1), _full(4, -10), _full(4, 10), 0.0, _full(4, 1))


def hock_schittkowski_4() -> Problem:
    """Return (x1+1)^3/3 + x2 with x1 >= 1, x2 >= 0: 8/3 at the corner (1, 0), no upper bounds."""

    def value(x: torch.Tensor) -> torch.Tensor:
        return (x[..., 0] + 1) ** 3 / 3 + x[..., 1]

    inf = math.inf
    return Problem("hs4", value, _vector(1.125, 0.125), _vector(1, 0), _vector(inf, inf), 8 / 3, _vector(1, 0))


def hock_schittkowski_5() -> Problem:
    """Return a sine trough; the minimum nearest the start is -sqrt(3)/2 - pi/3."""

    def value(x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., 0], x[..., 1]
        return torch.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1

    minimiser = _vector(0.5 - math.pi / 3, -0.5 - math.pi / 3)
    minimum = -math.sqrt(3) / 2 - math.pi / 3
    return Problem("hs5", value, _vector(0, 0), _vector(-1.5, -3), _vector(4, 3), minimum, minimiser)


def hock_schittkowski_45() -> Problem:
    """Return 2 - prod(x)/120 with 0 <= x_i <= i: not convex, 1 at the corner (1, 2, 3, 4, 5)."""
    corner = _vector(1, 2, 3, 4, 5)
    return Problem("hs45", lambda x: 2 - x.prod(-1) / 120, corner * 0.4, _full(5, 0), corner, 1.0, corner.clone())


def nonnegative_least_squares(seed: int = 0) -> Problem:
    """Return |Ax - b|^2 / 2 with x >= 0; the answer is scipy.optimize.nnls's, an active-set method."""
    rng = np.random.default_rng(seed)
    A, b = rng.standard_normal((25, 12)), rng.standard_normal(25)
    minimiser, residual = scipy.optimize.nnls(A, b)
    matrix, right = torch.from_numpy(A), torch.from_numpy(b)

    def value(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x @ matrix.to(x).T - right.to(x)).square().sum(-1)

    minimum = 0.5 * residual**2
    return Problem("nnls", value, _full(12, 1), _full(12, 0), _full(12, math.inf), minimum, torch.from_numpy(minimiser))


def projection(n: int = 12, seed: int = 0) -> Problem:
    """Return |x - p|^2 / 2 in the unit box: the minimiser is p, clipped."""
    point = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 2, n))
    minimiser = point.clamp(0, 1)

    def value(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - point.to(x)).square().sum(-1)

    return Problem(
        f"projection {n}",
        value,
        _full(n, 0.5),
        _full(n, 0),
        _full(n, 1),
        value(minimiser).item(),
        minimiser,
    )


def linear(n: int = 12, seed: int = 0, width: float = 1.0) -> Problem:
    """Return a linear function on width * [-1, 2]^n: the minimiser is the corner against the slope."""
    slope = torch.from_numpy(np.random.default_rng(seed).standard_normal(n))
    minimiser = width * torch.where(slope > 0, -1.0, 2.0).to(torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (x * slope.to(x)).sum(-1)

    return Problem(
        f"linear {n}",
        value,
        _full(n, 0.3),
        _full(n, -width),
        _full(n, 2 * width),
        value(minimiser).item(),
        minimiser,
    )


def starts_solved() -> Problem:
    """Return a quadratic that starts at its minimiser, two thirds of it on bounds."""
    p = quadratic(100.0, name="starts solved", seed=5)
    assert p.minimiser is not None
    return Problem(p.name, p.value, p.minimiser.clone(), p.lower, p.upper, p.minimum, p.minimiser)


def fixed_coordinates() -> Problem:
    """Return |x - p|^2 / 2 coupled by 0.1 (sum x)^2, every third coordinate fixed by equal bounds.

    With the fixed part f of the sum known, the free part of the sum s solves s = sum p_free - 0.2 k (s + f),
    k the number of free coordinates, and x_i = p_i - 0.2 (s + f).
    """
    p = torch.linspace(-1, 1, 12, dtype=torch.float64)
    fixed = torch.arange(12) % 3 == 0
    lower, upper = torch.where(fixed, 0.25, -5.0).double(), torch.where(fixed, 0.25, 5.0).double()
    held, k = 0.25 * fixed.sum(), (~fixed).sum()
    total = (p[~fixed].sum() - 0.2 * k * held) / (1 + 0.2 * k) + held
    minimiser = torch.where(fixed, 0.25, p - 0.2 * total)

    def value(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - p.to(x)).square().sum(-1) + 0.1 * x.sum(-1).square()

    minimum = value(minimiser).item()
    start = torch.where(fixed, 0.25, 2.0).double()
    return Problem("fixed coordinates", value, start, lower, upper, minimum, minimiser)


def half_open() -> Problem:
    """Return a separable problem with both, one and no bounds infinite in turn."""
    p = separable(12, seed=3)
    turn = torch.arange(12) % 4
    inf = math.inf
    lower = torch.where((turn == 0) | (turn == 1), -0.5, -inf).double()
    upper = torch.where((turn == 0) | (turn == 2), 0.5, inf).double()
    a = torch.from_numpy(np.random.default_rng(3).uniform(0.05, 6.0, 12))
    minimiser = torch.minimum(torch.maximum(a.log(), lower), upper)
    return Problem("half open", p.value, p.start, lower, upper, p.value(minimiser[None]).item(), minimiser)


def rescaled(factor: float, length: float) -> Problem:
    """Return factor * quadratic(x / length): very large or very small values and coordinates.

    P(x - g) - x is never longer than the box is wide, so the tolerance must be small beside that too.
    """
    p = quadratic(100.0, n=12, seed=7)
    assert p.minimiser is not None
    return Problem(
        f"rescaled {factor:g} {length:g}",
        lambda x: factor * p.value(x / length),
        p.start * length,
        p.lower * length,
        p.upper * length,
        factor,
        p.minimiser * length,
        tolerance=min(1e-6 * factor / length, 1e-2 * length),
        scale=factor,
    )


def styblinski_tang(n: int = 5) -> Problem:
    """Return sum (x^4 - 16 x^2 + 5 x) / 2 in [-5, 5]^n: 2^n local minima, only stationarity is required."""
    start = _vector(-4, 3, -1, 4, 0.5)[:n]
    return Problem(
        "styblinski-tang",
        lambda x: 0.5 * (x**4 - 16 * x**2 + 5 * x).sum(-1),
        start,
        _full(n, -5),
        _full(n, 5),
        -39.16616570377142 * n,
        _full(n, -2.903534027771177),
        unique=False,
    )


def inverted_bowl() -> Problem:
    """Return -|x|^2 / 2 in [-1, 2]^6: negative curvature everywhere; from x > 0 to the corner (2, ..., 2)."""
    return Problem(
        "inverted bowl",
        lambda x: -0.5 * x.square().sum(-1),
        _full(6, 0.3),
        _full(6, -1),
        _full(6, 2),
        -12.0,
        _full(6, 2),
        unique=False,
    )


def barrier(n: int = 6) -> Problem:
    """Return sum x_i - log x_i without bounds: NaN for x <= 0, n at (1, ..., 1); first steps overshoot."""
    inf = math.inf
    return Problem(
        "barrier",
        lambda x: torch.where(x > 0, x - x.log(), torch.nan).sum(-1),
        torch.linspace(0.01, 3.0, n, dtype=torch.float64),
        _full(n, -inf),
        _full(n, inf),
        float(n),
        _full(n, 1),
    )


def unbounded() -> Problem:
    """Return a linear function without bounds: no minimum exists."""
    inf = math.inf
    return Problem("unbounded", lambda x: x.sum(-1), _full(4, 0), _full(4, -inf), _full(4, inf))


PROBLEMS: tuple[Problem, ...] = (
    quadratic(1.0),
    quadratic(1e2),
    quadratic(1e4),
    quadratic(1e6),
    quadratic(1e4, n=15, seed=2, name="quadratic 1e+04 free", active=False),
    rosenbrock(2),
    rosenbrock(20),
    rosenbrock_cut(),
    rosenbrock_tight(),
    logistic(),
    separable(),
    powell_singular(),
    beale(),
    booth(),
    wood(),
    hock_schittkowski_4(),
    hock_schittkowski_5(),
    hock_schittkowski_45(),
    nonnegative_least_squares(),
    projection(),
    linear(),
    starts_solved(),
    fixed_coordinates(),
    half_open(),
    rescaled(1e8, 1.0),
    rescaled(1e-8, 1.0),
    rescaled(1.0, 1e4),
    rescaled(1.0, 1e-4),
    styblinski_tang(),
    inverted_bowl(),
    barrier(),
)


@dataclass(frozen=True)
class Mixture:
    """Many rows of one dimension, each with a problem of its own; `kind[i]` is row i's problem."""

    problems: tuple[Problem, ...]
    kind: torch.Tensor
    x0: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def fun(self, x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate every row under its own problem."""
        kinds = self.kind[rows]
        f, g = torch.empty_like(x[:, 0]), torch.empty_like(x)
        for k in kinds.unique().tolist():
            of_kind = kinds == k
            f[of_kind], g[of_kind] = value_and_gradient(self.problems[k].value, x[of_kind])
        return f, g

    def only(self, rows: torch.Tensor) -> Mixture:
        """Return the mixture of these rows alone."""
        return Mixture(self.problems, self.kind[rows], self.x0[rows], self.lower[rows], self.upper[rows])


def mixture(count: int = 257, n: int = 12, seed: int = 0) -> Mixture:
    """Return `count` rows over nine problems of dimension n (a multiple of 4), starts drawn around theirs."""
    problems = (
        quadratic(1.0, n),
        quadratic(1e2, n),
        quadratic(1e4, n),
        Problem("rosenbrock", _rosenbrock, _full(n, 0.6), _full(n, 0.2), _full(n, 2)),
        logistic(n),
        separable(n),
        powell_singular(n),
        projection(n),
        linear(n),
    )
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(len(problems), (count,), generator=generator)
    lower = torch.stack([p.lower for p in problems])[kind]
    upper = torch.stack([p.upper for p in problems])[kind]
    x0 = torch.stack([p.start for p in problems])[kind]
    x0 = x0 + 0.2 * (torch.rand(x0.shape, generator=generator, dtype=torch.float64) - 0.5)
    return Mixture(problems, kind, torch.minimum(torch.maximum(x0, lower), upper), lower, upper)


@dataclass(frozen=True)
class Nearest:
    """The exact nearest point of a linear classifier's region, with its certificate.

    Attributes:
        r: (n,) the shortest change; NaN where the region does not meet the box.
        distance: |r|, or inf where no point of the box reaches the region.
        bound: a lower bound on the distance from weak duality, true whatever the solver did.
        violation: the largest amount by which r misses a half-space, in units of distance.
    """

    r: np.ndarray
    distance: float
    bound: float
    violation: float


def nearest_linear(
    x: np.ndarray, weights: np.ndarray, bias: np.ndarray, target: int, box: tuple[float, float] = (0.0, 1.0)
) -> Nearest:
    """Return the shortest r with class `target` first, or tied, at x + r in the box, for logits W x + b.

    min |r|^2 / 2 subject to A r >= h, lo <= r <= hi, rows of A scaled to norm 1. For multipliers m >= 0 the
    inner minimiser is r(m) = clip(A'm, lo, hi), so the dual D(m) = |r|^2/2 - m'(A r - h) is smooth,
    concave in K - 1 variables, with gradient h - A r. SciPy maximises it, and Newton steps on the active set
    polish the end.

    Args:
        x: (n,) a point of the box. weights: (K, n). bias: (K,). target: a class.
    """
    x, weights, bias = (np.asarray(a, dtype=np.float64) for a in (x, weights, bias))
    others = [j for j in range(len(weights)) if j != target]
    A = weights[target] - weights[others]
    norms = np.linalg.norm(A, axis=1)
    h = -(A @ x + bias[target] - bias[others]) / norms
    A = A / norms[:, None]
    lo, hi = box[0] - x, box[1] - x
    if (h <= 0).all():
        return Nearest(np.zeros_like(x), 0.0, 0.0, 0.0)
    if not _reachable(A, h, lo, hi):
        return Nearest(np.full_like(x, np.nan), math.inf, math.inf, math.inf)

    def dual(m: np.ndarray) -> tuple[float, np.ndarray]:
        r = np.clip(m @ A, lo, hi)
        slack = A @ r - h
        return float(m @ slack - 0.5 * r @ r), slack

    def residual(m: np.ndarray) -> float:
        return float(np.abs(np.minimum(m, dual(m)[1])).max())

    options = {"ftol": 0.0, "gtol": 1e-13, "maxcor": 20, "maxiter": 5_000, "maxfun": 10_000}
    m = scipy.optimize.minimize(
        dual,
        np.maximum(h, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(0.0, np.inf),
        options=options,
    ).x
    # The value is flat at its top and its rounding hides the last steps; the residual of the conditions shows
    # them.
    best = m
    for _ in range(5):
        free = (m @ A > lo) & (m @ A < hi)
        tight = m > 0
        at_bounds = np.where(free, 0.0, np.clip(m @ A, lo, hi))
        gram = A[np.ix_(tight, free)] @ A[np.ix_(tight, free)].T
        m = np.zeros_like(m)
        m[tight] = np.maximum(np.linalg.lstsq(gram, (h - A @ at_bounds)[tight], rcond=None)[0], 0.0)
        if residual(m) < residual(best):
            best = m
    value, slack = dual(best)
    r = np.clip(best @ A, lo, hi)
    distance = float(np.linalg.norm(r))
    return Nearest(r, distance, math.sqrt(max(-2 * value, 0.0)), float(max(-slack.min(), 0.0)))


def nearest_linear_in(
    norm: float,
    x: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    target: int,
    box: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Return the least L1 or Linf size of r with class `target` first, or tied, at x + r in the box; inf for none.

    A linear program (HiGHS). L1: r = p - q with p, q >= 0, the sum of both is least. Linf: a bound s on every |r_i|.
    """
    n, others = len(x), [j for j in range(len(weights)) if j != target]
    A = weights[target] - weights[others]
    h = -(A @ x + bias[target] - bias[others])
    lo, hi = box[0] - x, box[1] - x
    if norm == 1:
        cost, limit, left = np.ones(2 * n), -h, np.hstack([-A, A])
        bounds = [(0.0, room) for room in [*np.maximum(hi, 0), *np.maximum(-lo, 0)]]
    else:
        identity, column = np.eye(n), np.ones((n, 1))
        cost = np.append(np.zeros(n), 1.0)
        left = np.vstack([np.hstack([-A, np.zeros((len(A), 1))]), np.hstack([identity, -column])])
        left = np.vstack([left, np.hstack([-identity, -column])])
        limit = np.concatenate([-h, np.zeros(2 * n)])
        bounds = [*zip(lo, hi, strict=True), (0.0, None)]
    found = scipy.optimize.linprog(cost, A_ub=left, b_ub=limit, bounds=bounds, method="highs")
    return float(found.fun) if found.status == 0 else math.inf


def nearest_wrong(
    norm: float, x: np.ndarray, weights: np.ndarray, bias: np.ndarray, label: int, box: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Return the least size of a change in the box that lets any class tie with `label`, in L1, L2 or Linf.

    The region where class j beats the label is a half-space, whatever the other classes do.
    """
    least = math.inf
    for j in range(len(weights)):
        if j != label:
            pair = [label, j]
            if norm == 2:
                distance = nearest_linear(x, weights[pair], bias[pair], 1, box).distance
            else:
                distance = nearest_linear_in(norm, x, weights[pair], bias[pair], 1, box)
            least = min(least, distance)
    return least


def _reachable(A: np.ndarray, h: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> bool:
    """Whether some r in the box satisfies A r >= h, by linear programming (HiGHS)."""
    bounds = np.stack([lo, hi], axis=1)
    found = scipy.optimize.linprog(np.zeros(A.shape[1]), A_ub=-A, b_ub=-h, bounds=bounds, method="highs")
    return bool(found.status == 0)


def nearest_relu(
    x: np.ndarray,
    layers: list[tuple[np.ndarray, np.ndarray]],
    label: int,
    *,
    norm: float = 2,
    box: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Return the exact distance from x to the nearest point of the box that a ReLU net does not label strictly.

    Every pattern of active units is a polyhedron on which the net is affine; on each, for each wrong class, the
    nearest point of {z_j >= z_label} is a least-distance problem. For a handful of units: 2^units patterns.

    Args:
        x: (n,) a point of the box.
        layers: (weight (D, C), bias (D,)) of each layer, ReLU between them.
        label: a class.
        norm: 2 or inf.
    """
    widths = [len(bias) for _, bias in layers[:-1]]
    best = math.inf
    for pattern in np.ndindex(*([2] * sum(widths))):
        signs = np.split(np.array(pattern, dtype=np.float64), np.cumsum(widths)[:-1])
        W, b = np.eye(len(x)), np.zeros(len(x))
        rows, offsets = [], []
        for (weight, bias), on in zip(layers, signs, strict=False):
            W, b = weight @ W, weight @ b + bias
            rows.append((2 * on - 1)[:, None] * W)
            offsets.append((2 * on - 1) * b)
            W, b = on[:, None] * W, on * b
        W, b = layers[-1][0] @ W, layers[-1][0] @ b + layers[-1][1]
        for j in range(len(b)):
            if j == label:
                continue
            A = np.concatenate([*rows, (W[j] - W[label])[None]])
            c = np.concatenate([*offsets, [b[j] - b[label]]])
            least = least_distance if norm == 2 else _least_cube
            best = min(best, least(A, -(A @ x + c), box[0] - x, box[1] - x))
    return best


def least_distance(A: np.ndarray, h: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> float:
    """Return min |r| subject to A r >= h, lo <= r <= hi: by non-negative least squares (Lawson and Hanson, ch. 23)."""
    unit = np.eye(A.shape[1])
    G, g = np.concatenate([A, unit, -unit]), np.concatenate([h, lo, -hi])
    E = np.concatenate([G.T, g[None]])
    f = np.zeros(len(E))
    f[-1] = 1.0
    u, _ = scipy.optimize.nnls(E, f, maxiter=1000)
    residual = E @ u - f
    if np.linalg.norm(residual) < 1e-9:
        return math.inf
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def _least_cube(A: np.ndarray, h: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> float:
    """Return min max |r_i| subject to A r >= h, lo <= r <= hi: a linear program."""
    n = A.shape[1]
    unit, one = np.eye(n), np.ones((n, 1))
    upper = np.concatenate([np.hstack([-A, np.zeros((len(A), 1))]), np.hstack([unit, -one]), np.hstack([-unit, -one])])
    limits = np.concatenate([-h, np.zeros(2 * n)])
    bounds = [*zip(lo, hi, strict=True), (0, None)]
    found = scipy.optimize.linprog(np.eye(n + 1)[-1], A_ub=upper, b_ub=limits, bounds=bounds)
    return float(found.fun) if found.status == 0 else math.inf
