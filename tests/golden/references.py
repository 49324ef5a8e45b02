"""References written from the algorithms in NumPy: NOT official code.

For methods whose authors' code is in no package (hypergradient descent, DoWG,
CDoWG, smoothed and decreasing SPS, NGN, L4, IAM, AutoLRS) or does not exist (STORM+).
Each takes the flat starting point `x`, the gradient `grad(step, x)` of a step's batch,
the learning rate of each step, and the method's own arguments under lrjax's names; some
take the loss `value(step, x)`. It yields, after each update, the point and the scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Gradient = Callable[[int, np.ndarray], np.ndarray]
Value = Callable[[int, np.ndarray], float]
Run = Iterator[tuple[np.ndarray, dict[str, float]]]


def dowg(x: np.ndarray, grad: Gradient, rates: np.ndarray, *, eps: float = 1e-4) -> Run:
    """Khaled, Mishchenko and Jin (2023), Algorithm 1, on gradients times `rates`."""
    start, distance, weighted = x, eps, 0.0
    for step, rate in enumerate(rates):
        g = rate * grad(step, x)
        distance = max(distance, np.sum((x - start) ** 2))
        weighted += distance * np.sum(g**2)
        eta = distance / (np.sqrt(weighted) + eps)
        x = x - eta * g
        yield x, {"eta": eta}


def cdowg(
    x: np.ndarray, grad: Gradient, rates: np.ndarray, *, eps: float = 1e-8
) -> Run:
    """DoWG for each coordinate by itself, from a squared distance of 1e-4."""
    start, distance, weighted = x, np.full_like(x, 1e-4), np.zeros_like(x)
    for step in range(len(rates)):
        g = grad(step, x)
        distance = np.maximum(distance, (x - start) ** 2)
        weighted = weighted + distance * g**2
        x = x - distance * g / (np.sqrt(weighted) + eps)
        yield x, {}


def hypergradient_sgd(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    hypergrad_lr: float = 1e-6,
) -> Run:
    """Baydin et al. (2018), Algorithms 4 and 5; momentum as in PyTorch's SGD."""
    rate, buffer, direction = rates[0], np.zeros_like(x), np.zeros_like(x)
    for step in range(len(rates)):
        g = grad(step, x) + weight_decay * x
        rate += hypergrad_lr * g @ direction
        buffer = momentum * buffer + g
        direction = g + momentum * buffer if nesterov else buffer
        x = x - rate * direction
        yield x, {"lr": rate}


def hypergradient_adam(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    leaves: Sequence[slice],
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    hypergrad_lr: float = 1e-8,
) -> Run:
    """Baydin et al. (2018), Algorithm 6, leaf by leaf as in the authors' code."""
    rate = rates[0]
    m, v, direction = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for step in range(len(rates)):
        g, x = grad(step, x) + weight_decay * x, x.copy()
        correction = np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
        for leaf in leaves:
            rate += hypergrad_lr * g[leaf] @ direction[leaf]
            m[leaf] = b1 * m[leaf] + (1 - b1) * g[leaf]
            v[leaf] = b2 * v[leaf] + (1 - b2) * g[leaf] ** 2
            direction[leaf] = correction * m[leaf] / (np.sqrt(v[leaf]) + eps)
            x[leaf] -= rate * direction[leaf]
        yield x, {"lr": rate}


def storm_plus(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    c: float = 1.0,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    init_accumulator: float = 1.0,
    normalized_norm: bool = False,
    double_decay: bool = False,
) -> Run:
    """Levy, Kavis and Cevher (2021), Algorithm 1, with a floor for both sums."""
    size = x.size if normalized_norm else 1
    gradients = estimators = init_accumulator
    g = d = grad(0, x) + weight_decay * x
    for step, rate in enumerate(rates):
        gradients += g @ g / size
        momentum = c / gradients ** (2 / 3)
        estimators += (d @ d / size + eps) / momentum
        eta = rate / estimators ** (1 / 3)
        before = grad(step, x) + (2 if double_decay else 1) * weight_decay * x
        x = x - eta * d
        g = grad(step, x) + weight_decay * x
        d = g + (1 - momentum) * (d - before)
        yield x, {"eta": eta, "a": momentum}


def adgd(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    amplifier: float = 0.02,
    damping: float = 1.0,
    eps: float = 1e-5,
    weight_decay: float = 0.0,
) -> Run:
    """Malitsky and Mishchenko (2020), the stochastic form of their PyTorch code."""
    rate, theta, before = rates[0], 1.0, x
    for step in range(len(rates)):
        g = grad(step, x)
        turned = np.linalg.norm(g - grad(step, before))
        moved = np.linalg.norm(x - before)
        new = rate * np.sqrt(1 + amplifier * theta)
        if turned > 0 and moved > 0:
            new = min(new, moved / (damping * turned)) + eps
        theta, rate, before = new / rate, new, x
        x = x - rate * (g + weight_decay * x)
        yield x, {"lr": rate}


def barzilai_borwein(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    period_steps: int,
    weight: float = 10.0,
    smoothing: bool = False,
    max_learning_rate: float = np.inf,
) -> Run:
    """Tan, Ma, Dai and Qian (2016), SGD-BB as in their code; a bound of the rate.

    A period whose quotient is no positive number keeps the rate.
    """
    share = min(weight / period_steps, 1.0)
    starts, averages, found = [], [], []
    average, rate = np.zeros_like(x), rates[0]
    for step in range(len(rates)):
        period, place = divmod(step, period_steps)
        if place == 0:
            starts.append(x)
            averages.append(average)
            if period > 1:
                moved = starts[-1] - starts[-2]
                slope = abs(moved @ (averages[-1] - averages[-2]))
                if slope > 0 and moved @ moved > 0:
                    rate = moved @ moved / slope / period_steps
                    found.append(np.log(rate * period))
                    if smoothing:
                        rate = np.exp(np.mean(found)) / period
        rate = min(rate, max_learning_rate)
        g = grad(step, x)
        average = share * g + (1 - share) * average
        x = x - rate * g
        yield x, {"lr": rate}


def cdat(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    hessian: Gradient,
    base_optimizer: tuple[str, dict[str, float]],
    beta: float = 0.9,
    eps: float = 0.0,
) -> Run:
    """Roulet et al. (2024) with averages, around SGD or Adam; the whole Hessian."""
    assert base_optimizer[1] == {"learning_rate": 1.0}
    slope = curvature = 0.0
    m, v = np.zeros_like(x), np.zeros_like(x)
    for step, factor in enumerate(rates):
        g = grad(step, x)
        u = -g
        if base_optimizer[0] == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            u = -m_hat / (np.sqrt(v_hat) + 1e-8)
        slope = beta * slope + (1 - beta) * max(-g @ u, 0.0)
        bend = abs(u @ hessian(step, x) @ u) + eps
        curvature = beta * curvature + (1 - beta) * bend
        eta = factor * slope / curvature if curvature > 0 else 0.0
        x = x + eta * u
        yield x, {"eta": eta}


def sps_smooth(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    c: float = 0.5,
    increase_factor: float = 2 ** (1 / 500),
    lower_bound: float = 0.0,
    eps: float = 1e-8,
) -> Run:
    """Loizou et al. (2021), smoothed; a gradient of zero changes nothing."""
    cap = rates[0]
    for step in range(len(rates)):
        g, eta = grad(step, x), 0.0
        if g.any():
            gap = max(value(step, x) - lower_bound, 0.0)
            cap = eta = min(increase_factor * cap, gap / (c * (g @ g) + eps))
        x = x - eta * g
        yield x, {"eta": eta}


def dec_sps(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    c: float = 1.0,
    power: float = 0.5,
    lower_bound: float = 0.0,
) -> Run:
    """Orvieto, Lacoste-Julien and Loizou (2022); a gradient of zero bounds nothing."""
    eta, last = rates[0], c
    for step in range(len(rates)):
        g, factor = grad(step, x), c * (step + 1) ** power
        bound = last * eta
        if g.any():
            bound = min(bound, max(value(step, x) - lower_bound, 0.0) / (g @ g))
        eta, last = bound / factor, factor
        x = x - eta * g
        yield x, {"eta": eta}


def ngn(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    lower_bound: float = 0.0,
) -> Run:
    """Orvieto and Xiao (2024), with the average of the authors' scripts."""
    average = grad(0, x)
    for step, sigma in enumerate(rates):
        average = momentum * average + (1 - momentum) * grad(step, x)
        gap = max(value(step, x) - lower_bound, 0.0)
        eta = sigma / (1 + sigma * (average @ average) / (2 * gap)) if gap else 0.0
        x = x - eta * (average + weight_decay * x)
        yield x, {"eta": eta}


def _l4(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    value: Value,
    direct: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    minloss_factor: float = 0.9,
    init_factor: float = 0.75,
    forget_time: float = 1000.0,
    eps: float = 1e-12,
) -> Run:
    """Rolinek and Martius (2018), Algorithm 1; `direct` gives both its vectors."""
    least = 0.0
    for step, fraction in enumerate(rates):
        g, loss = grad(step, x), value(step, x)
        estimate, direction = direct(g, step)
        least = min(least, loss) if step else init_factor * loss
        gap = loss - minloss_factor * least
        eta = fraction * gap / (estimate @ direction + eps) if direction.any() else 0.0
        x = x - eta * direction
        yield x, {"eta": eta, "min_loss": least}
        least *= 1 + 1 / forget_time


def l4_adam(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    b1: float = 0.9,
    b2: float = 0.999,
    adam_eps: float = 1e-4,
    **kwargs: float,
) -> Run:
    """L4 with Adam's direction."""
    m, v = np.zeros_like(x), np.zeros_like(x)

    def direct(g: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        m[:] = b1 * m + (1 - b1) * g
        v[:] = b2 * v + (1 - b2) * g**2
        estimate = m / (1 - b1 ** (step + 1))
        return estimate, estimate / (np.sqrt(v / (1 - b2 ** (step + 1))) + adam_eps)

    return _l4(x, grad, rates, value, direct, **kwargs)


def l4_momentum(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    momentum: float = 0.9,
    **kwargs: float,
) -> Run:
    """L4 with an average of gradients as direction."""
    m = np.zeros_like(x)

    def direct(g: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        m[:] = momentum * m + (1 - momentum) * g
        return (m / (1 - momentum ** (step + 1)),) * 2

    return _l4(x, grad, rates, value, direct, **kwargs)


def iam(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    momentum: float | None = 0.9,
    weight_decay: float = 0.0,
    lower_bound: float = 0.0,
    metric: Callable[[np.ndarray, int], np.ndarray | float] = lambda g, step: 1.0,
) -> Run:
    """Gower et al. (2025), as in the authors' code; no movement without gradient."""
    z = x
    for step, cap in enumerate(rates):
        g, ratio = grad(step, x), step + 1 if momentum is None else None
        if ratio is None:
            ratio = momentum / (1 - momentum)
        direction, tau = g / metric(g, step), cap
        if g.any():
            gap = value(step, x) - lower_bound + g @ (z - x)
            tau = min(cap, max(gap, 0.0) / (g @ direction))
        z = z - cap * weight_decay * x - tau * direction
        x = ratio / (1 + ratio) * x + z / (1 + ratio)
        yield x, {"eta": tau / (1 + ratio)}


def iam_adam(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    b2: float = 0.999,
    eps: float = 1e-8,
    **kwargs: float,
) -> Run:
    """IAM in Adam's metric, with a count of updates for the correction."""
    v = np.zeros_like(x)

    def metric(g: np.ndarray, step: int) -> np.ndarray:
        v[:] = b2 * v + (1 - b2) * g**2
        return np.sqrt(v / (1 - b2 ** (step + 1))) + eps

    return iam(x, grad, rates, value=value, metric=metric, **kwargs)


def multirate_sgd(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    leaves: Sequence[slice],
    per_coordinate: bool = False,
    weight_decay: float = 0.0,
    hypergrad_lr: float = 1e-6,
) -> Run:
    """Baydin et al. (2018) with a rate for each leaf or coordinate."""
    rate, last = np.full_like(x, rates[0]), np.zeros_like(x)
    for step in range(len(rates)):
        g = grad(step, x) + weight_decay * x
        product = g * last
        if not per_coordinate:
            for leaf in leaves:
                product[leaf] = product[leaf].sum()
        rate, last = rate + hypergrad_lr * product, g
        x = x - rate * g
        yield x, {"eta": rate.mean()}


def osgm(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    initial_rate: float = 0.0,
    eps: float = 1e-20,
    monotone: bool = True,
) -> Run:
    """Gao et al. (2024): hypergradients, AdaGrad and a diagonal scaling."""
    scale, sums = np.full_like(x, initial_rate), np.zeros_like(x)
    for step, alpha in enumerate(rates):
        g = grad(step, x)
        trial = x - scale * g
        kept = not monotone or value(step, trial) < value(step, x)
        eta = scale.mean() if kept else 0.0
        if g.any():
            slope = -grad(step, trial) * g / (g @ g)
            sums = sums + slope**2
            root = np.sqrt(sums + eps)
            scale = scale - alpha * np.divide(slope, root, where=root > 0)
        x = trial if kept else x
        yield x, {"eta": eta}


def abel(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    base_optimizer: tuple[str, dict[str, float]],
    factor: float = 0.1,
    accumulation_size: int = 1,
    last_decay: float = np.inf,
) -> Run:
    """Lewkowycz (2021), Algorithm 1, around SGD with momentum."""
    name, options = base_optimizer
    assert name == "sgd"
    scale, reached, norms, seen = 1.0, False, [], []
    velocity = np.zeros_like(x)
    for step in range(len(rates)):
        seen.append(x @ x)
        if len(seen) == accumulation_size:
            norms.append(np.mean(seen))
            seen = []
            turned = len(norms) > 2 and np.prod(np.diff(norms[-3:])) < 0
            if turned and reached:
                scale *= factor
            reached ^= bool(turned)
        if step == last_decay:
            scale *= factor
        velocity = options.get("momentum", 0.0) * velocity + grad(step, x)
        x = x - scale * options["learning_rate"] * velocity
        yield x, {"eta": scale}


def exponential_forecast(losses: Sequence[float], after: float) -> float:
    """The value at `after` of a exp(-b t) + c, fitted to means of up to 16 parts."""
    n = len(losses)
    parts = [[t for t in range(n) if t * 16 // n == part] for part in range(16)]
    parts = [part for part in parts if part]
    weights = np.sqrt([len(part) for part in parts])
    means = np.array([np.mean([losses[t] for t in part]) for part in parts])

    def fit(log_b: float) -> tuple[float, float]:
        curve = [np.mean(np.exp(-np.exp(log_b) * np.array(part))) for part in parts]
        columns = np.stack([curve, np.ones(len(parts))], axis=1)
        a, c = np.linalg.lstsq(columns * weights[:, None], means * weights)[0]
        errors = weights * (columns @ [a, c] - means)
        return errors @ errors, a * np.exp(-np.exp(log_b) * after) + c

    grid = np.linspace(-np.log(after), np.log(16 / n), 400)
    best = int(np.argmin([fit(log_b)[0] for log_b in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 399)]
    golden = (np.sqrt(5) - 1) / 2
    while high - low > 1e-9:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if fit(left)[0] < fit(right)[0]:
            high = right
        else:
            low = left
    ends = (low, (low + high) / 2, high)
    return fit(min(ends, key=lambda log_b: fit(log_b)[0]))[1]


def lower_bounds(
    places: Sequence[float], values: Sequence[float], kappa: float, at: np.ndarray
) -> np.ndarray:
    """Mean less `kappa` standard deviations of a Gaussian process, given values."""

    def kernel(left, right):
        distance = np.sqrt(5) * np.abs(np.subtract.outer(left, right)) / 0.25
        return (1 + distance + distance**2 / 3) * np.exp(-distance)

    scaled = np.array(values) - np.mean(values)
    scaled = scaled / (np.std(values) or 1.0)
    covariance = kernel(places, places) + 0.01 * np.eye(len(places))
    cross = kernel(places, at)
    mean = cross.T @ np.linalg.solve(covariance, scaled)
    variance = 1 - np.sum(cross * np.linalg.solve(covariance, cross), axis=0)
    # Of two that are alike the lower one.
    return mean - kappa * (np.sqrt(variance) - 1e-3 * at)


def autolrs(
    x: np.ndarray,
    grad: Gradient,
    rates: np.ndarray,
    *,
    value: Value,
    base_optimizer: tuple[str, dict[str, float]],
    span: float = 10.0,
    train_steps: int = 1000,
    trial_steps: int = 100,
    candidates: int = 10,
    kappa: float = 2.0,
) -> Run:
    """Jin et al. (2021), Algorithm 1, around SGD with momentum, losses of batches."""
    name, options = base_optimizer
    assert name == "sgd"
    grid = np.linspace(0, 1, 65)
    number = candidates if trial_steps >= 4 else 0
    velocity, place, step = np.zeros_like(x), 0.5, 0
    while step < len(rates):
        home, velocity_there = x, velocity
        tried, forecasts, starts = [], [], []
        for trial in range(number + 1):
            rate = rates[0] * span ** (2 * place - 1)
            trying = trial < number
            losses = []
            for left in reversed(range(trial_steps if trying else train_steps)):
                if step == len(rates):
                    return
                losses.append(value(step, x))
                velocity = options.get("momentum", 0.0) * velocity + grad(step, x)
                x = x - rate * options["learning_rate"] * velocity
                if trying and left < 2:
                    x, velocity = home, velocity_there
                step += 1
                yield x, {"eta": rate}
            if trying:
                tried.append(place)
                starts.append(losses[0])
                forecasts.append(exponential_forecast(losses[:-1], train_steps))
                place = tried[int(np.argmin(forecasts))]
            if trial < number - 1:
                capped = np.minimum(forecasts, np.mean(starts))
                bounds = lower_bounds(tried, capped, kappa, grid)
                bounds[np.isin(grid, tried)] = np.inf
                place = grid[np.argmin(bounds)]
