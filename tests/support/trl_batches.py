"""Generation batches of TRL made by hand, and the core's view of them."""

from __future__ import annotations

import torch

from r2vpo.objectives import make_objective

TOLERANCE = 1e-6
"""Relative to the largest element. Models are in float64; what is left is the float32 of TRL's log-probs."""


def of_core(model, batches, objective, temperature=1.0, **hyperparameters):
    """Loss, gradients and log-ratios of all samples together, one unpadded sequence at a time."""
    model.zero_grad()
    calls, log_ratios = [], []
    for batch in batches:
        for row, advantage in enumerate(weighted(batch)):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            kept = batch["completion_mask"][row].bool()
            ids, old = batch["completion_ids"][row][kept], batch["old_per_token_logps"][row][kept]
            counts = batch["tool_mask"][row][kept].bool() if "tool_mask" in batch else torch.ones_like(ids).bool()
            logits = model(torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1] / temperature
            log_prob = logits.log_softmax(-1).gather(1, ids[:, None]).T
            calls.append((log_prob, old[None].double(), advantage[kept][None].double(), counts[None]))
            log_ratios.append((log_prob[0] - old).detach()[counts])
    objective = make_objective(objective, **hyperparameters)
    measured = objective.measured(torch.cat(log_ratios), torch.cat([a[mask] for _, _, a, mask in calls]))
    loss = torch.cat([objective(*call, **measured)[call[-1]] for call in calls]).mean()
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}, torch.cat(log_ratios)


def weighted(batch):
    """Advantage of every token, ``[B, T]``."""
    advantages = batch["advantages"][:, None].expand(batch["completion_ids"].shape)
    return advantages * batch.get("advantage_weights", 1.0)


def assert_same_gradients(gradients, expected, tolerance=TOLERANCE):
    scale = max(float(values.abs().max()) for values in expected.values())
    assert scale > 1e-3
    for name, values in expected.items():
        torch.testing.assert_close(gradients[name], values, rtol=0, atol=tolerance * scale, msg=name)


def rows(batch):
    """Prompt, completion and log-probs of every sample, without padding."""
    for row in range(len(batch["advantages"])):
        prompt, kept = batch["prompt_mask"][row].bool(), batch["completion_mask"][row].bool()
        ids = (batch["prompt_ids"][row][prompt].tolist(), batch["completion_ids"][row][kept].tolist())
        yield (*map(tuple, ids), tuple(batch["old_per_token_logps"][row][kept].tolist()))
