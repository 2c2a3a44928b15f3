"""Every surrogate, sample by sample in plain Python: the value J, and the weight c of grad log pi."""

import math

import numpy as np

CASES = [
    ("r2vpo", {}),
    ("r2vpo", {"lam": 0.0}),
    ("r2vpo", {"lam": 1.3}),
    ("onesided", {}),
    ("onesided", {"lam": 0.0}),
    ("onesided", {"lam": 1.3}),
    ("ppo_clip", {}),
    ("ppo_clip", {"eps": 0.05}),
    ("clip_higher", {}),
    ("clip_higher", {"eps_low": 0.4, "eps_high": 0.1}),
    ("gppo", {}),
    ("gppo", {"eps_low": 0.4, "eps_high": 0.1}),
    ("topr", {}),
    ("topr", {"level": "sequence"}),
    ("spo", {}),
    ("spo", {"eps": 0.5}),
    ("cispo", {}),
    ("cispo", {"cap": 1.5}),
    ("gspo", {}),
    ("gspo", {"eps_low": 0.1, "eps_high": 0.3}),
    ("none", {}),
    ("sapo", {}),
    ("sapo", {"tau_pos": 3.0, "tau_neg": 0.5}),
    ("dppo", {}),
    ("dppo", {"delta": 0.01, "cap": 1.5}),
    ("dppo", {"divergence": "kl", "delta": 0.05}),
    ("m2po", {}),
    ("m2po", {"tau": 3.0}),
    ("drpo", {}),
    ("drpo", {"delta": 0.2}),
    ("vespo", {}),
    ("vespo", {"k_pos": 0.4, "lam_pos": 0.2, "k_neg": 0.3, "lam_neg": 1.5}),
    ("asymre", {}),
    ("asymre", {"shift": 0.0}),
    ("log2", {}),
    ("log2", {"beta": 2.0}),
]
DEFAULTS = {
    "r2vpo": {"lam": 0.04},
    "onesided": {"lam": 0.04},
    "ppo_clip": {"eps": 0.2},
    "clip_higher": {"eps_low": 0.2, "eps_high": 0.28},
    "gppo": {"eps_low": 0.2, "eps_high": 0.28},
    "topr": {"level": "token"},
    "spo": {"eps": 0.2},
    "cispo": {"cap": 5.0},
    "gspo": {"eps_low": 3e-4, "eps_high": 4e-4},
    "none": {},
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.05},
    "dppo": {"delta": 0.15, "divergence": "tv", "cap": 20.0},
    "m2po": {"tau": 0.04},
    "drpo": {"delta": 12.5},
    "vespo": {"k_pos": 2.0, "lam_pos": 3.0, "k_neg": 3.0, "lam_neg": 2.0},
    "asymre": {"shift": 0.1},
    "log2": {"beta": 0.1},
}
RECENT = ("sapo", "dppo", "m2po", "drpo", "vespo", "asymre", "log2")
CONSTANT_WEIGHT = ("gppo", "topr", "cispo", "dppo", "vespo", "asymre", "log2")
"""Their weight does not pass through the ratio, so the clamp on the ratio leaves it standing."""


def clipped_surrogate(rho, a, low, high):
    """Value of PPO's surrogate, and whether its gradient survives."""
    if a > 0 and rho > 1 + high:
        return (1 + high) * a, False
    if a < 0 and rho < 1 - low:
        return (1 - low) * a, False
    return rho * a, True


def classic(name, rho, a, log_prob, lam=0.0, eps=0.0, eps_low=0.0, eps_high=0.0, cap=0.0, level=""):
    """J of one sample and the weight c of grad log pi."""
    if name == "r2vpo":
        return rho * a - lam * (rho - 1) ** 2, (a - 2 * lam * (rho - 1)) * rho
    if name == "onesided":
        if a * (rho - 1) <= 0 or lam == 0:
            return rho * a, rho * a
        # The weight on the way out is A - 2 lam (rho - 1), which ends at this distance.
        x = math.copysign(min(abs(rho - 1), abs(a) / (2 * lam)), a)
        return a + a * x - lam * x**2, rho * a * max(0.0, 1 - 2 * lam * abs(rho - 1) / abs(a))
    if name == "spo":
        return rho * a - abs(a) * (rho - 1) ** 2 / (2 * eps), (a - abs(a) * (rho - 1) / eps) * rho
    if name == "none":
        return rho * a, rho * a
    if name == "topr":
        weight = a if a >= 0 else min(rho, 1.0) * a
        return weight * log_prob, weight
    if name == "cispo":
        return min(rho, cap) * a * log_prob, min(rho, cap) * a
    low, high = (eps, eps) if name == "ppo_clip" else (eps_low, eps_high)
    value, inside = clipped_surrogate(rho, a, low, high)
    if name == "gppo":
        return value, value
    return value, rho * a if inside else 0.0


def recent(name, rho, a, log_prob, old, outlier, **settings):
    """The same for those of 2025 and 2026; ``outlier`` is what m2po leaves out."""
    p, q = (math.exp(min(0.0, x)) for x in (log_prob, old))
    outward = a * (log_prob - old) > 0
    if name == "sapo":
        tau = settings["tau_pos" if a > 0 else "tau_neg"]
        s = 0.5 * (1 + math.tanh(tau * (rho - 1) / 2))
        return 4 / tau * s * a, 4 * s * (1 - s) * rho * a
    if name == "dppo":
        rest_p, rest_q = (max(1e-8, -math.expm1(min(0.0, x))) for x in (log_prob, old))
        kl = q * (min(0.0, old) - min(0.0, log_prob)) + rest_q * math.log(rest_q / rest_p)
        distance = abs(p - q) if settings["divergence"] == "tv" else kl
        weight = 0.0 if outward and distance > settings["delta"] else min(rho, settings["cap"]) * a
        return weight * log_prob, weight
    if name == "m2po":
        return (0.0, 0.0) if outlier else (rho * a, rho * a)
    if name == "drpo":
        delta = settings["delta"]
        return rho * a - abs(a) * q * (rho - 1) ** 2 / (2 * delta), rho * (a - abs(a) * q * (rho - 1) / delta)
    if name == "vespo":
        k, lam = settings["k_pos" if a >= 0 else "k_neg"], settings["lam_pos" if a >= 0 else "lam_neg"]
        weight = math.exp(k * math.log(rho) + lam - lam * rho) * a
        return weight * log_prob, weight
    if name == "asymre":
        return (a + settings["shift"]) * log_prob, a + settings["shift"]
    log_rho = math.log(rho)
    inside = abs(log_prob - old) < 20
    return a * log_prob - settings["beta"] / 2 * log_rho**2, a - settings["beta"] * log_rho * inside


def outliers(lp, old, adv, kept, tau):
    """Positions that m2po leaves out: the largest (log rho)^2 goes, and its equals, until the mean is small enough."""
    steps = {at: lp[at] - old[at] for at in zip(*np.nonzero(kept), strict=True)}
    squares = {at: step**2 for at, step in steps.items() if adv[at] * step > 0 and abs(step) > 1e-5}
    gone = set()
    while squares and sum(squares.values()) / len(squares) > tau:
        largest = max(squares.values())
        gone |= {at for at in squares if squares[at] == largest}
        squares = {at: square for at, square in squares.items() if at not in gone}
    return gone


def by_hand(name, hyperparameters, log_prob, old_log_prob, advantage, mask=None):
    """Loss and gradient with respect to log_prob; reads nothing where the mask is False."""
    settings = DEFAULTS[name] | hyperparameters
    shape = log_prob.shape
    rows = (-1, 1) if len(shape) == 1 else shape
    lp, old, adv = (np.asarray(x).reshape(rows) for x in (log_prob, old_log_prob, advantage))
    kept = np.ones(lp.shape, bool) if mask is None else np.asarray(mask).astype(bool).reshape(rows)
    gone = outliers(lp, old, adv, kept, settings["tau"]) if name == "m2po" else ()
    loss, grad = np.zeros(lp.shape), np.zeros(lp.shape)
    for b in range(len(lp)):
        tokens = [t for t in range(lp.shape[1]) if kept[b, t]]
        log_ratio = {t: float(lp[b, t]) - float(old[b, t]) for t in tokens}
        for t in tokens:
            d, receivers = log_ratio[t], [t]
            if name == "gspo":
                d, receivers = sum(log_ratio.values()) / len(tokens), tokens
            elif name == "vespo":
                d = sum(max(-20.0, min(20.0, x)) for x in log_ratio.values())
            elif settings.get("level") == "sequence":
                d = sum(log_ratio.values())
            rho = math.exp(max(-20.0, min(20.0, d)))
            a, log_p = float(adv[b, t]), float(lp[b, t])
            if name in RECENT:
                value, weight = recent(name, rho, a, log_p, float(old[b, t]), (b, t) in gone, **settings)
            else:
                value, weight = classic(name, rho, a, log_p, **settings)
            if abs(d) > 20 and name not in CONSTANT_WEIGHT:
                weight = 0.0
            loss[b, t] = -value
            for u in receivers:
                grad[b, u] -= weight / len(receivers)
    return loss.reshape(shape), grad.reshape(shape)
