"""Loss, gradient and ratio variance under verl's interface are the core's."""

from __future__ import annotations

import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric.utils import Metric
from verl.utils.py_functional import append_to_dict
from verl.workers.config import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

import r2vpo.llm.verl as adapter
from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.errors import ConfigError
from r2vpo.objectives import make_objective
from r2vpo.update import Scored, minibatch_loss


def padded_batch(seed=0, rows=6, width=9):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 1, 4, 0, 7, 2])  # a row without tokens is what verl fills batches up with
    log_prob = -3.0 * torch.rand(rows, width, generator=generator)
    return SimpleNamespace(
        log_prob=log_prob.requires_grad_(),
        old=log_prob.detach() + 0.4 * torch.randn(rows, width, generator=generator),
        advantages=torch.randn(rows, 1, generator=generator).expand(rows, width).contiguous(),
        mask=torch.arange(width) < lengths[:, None],
    )


def actor_config(config, lam=0.3, objective="r2vpo", objective_kwargs=None, anchor="behaviour", **global_batch_info):
    chosen = {"objective": objective, "objective_kwargs": objective_kwargs or {}, "anchor": anchor}
    config.actor_rollout_ref.actor.policy_loss.update(chosen)
    config.algorithm.rollout_correction.bypass_mode = anchor == "behaviour"
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.policy_loss.lam = lam
    actor.global_batch_info.update(global_batch_info)
    return actor


@pytest.mark.parametrize(
    ("objective", "kwargs"), [("r2vpo", {}), ("onesided", {}), ("vespo", {"k_neg": 2.0}), ("dppo", {})]
)
@pytest.mark.parametrize(("rows", "ranks"), [(6, 1), (2, 2), (1, 1)])
def test_loss_gradient_and_ratio_variance_are_the_cores_in_any_split(config, rows, ranks, objective, kwargs):
    """Micro-batches of ``rows`` rows; the gradients of ``ranks`` ranks are averaged, as FSDP does."""
    batch = padded_batch()
    count = int(batch.mask.sum())
    lam = 0.3 if make_objective(objective).uses_dual else 0.0
    core = minibatch_loss(
        make_objective(objective, **({"lam": lam} if lam else {}), **kwargs),
        Scored(batch.log_prob, batch.old, batch.advantages, batch.mask),
        count,
    )
    loss_fn = get_policy_loss_fn("r2vpo")
    shares = {"dp_size": ranks, "batch_num_tokens": count, "global_batch_size": 6, "loss_scale_factor": None}
    actor = actor_config(config, objective=objective, objective_kwargs=kwargs, **shares)
    losses, reported = [], []
    for part in torch.arange(6).split(rows):
        loss, metrics = loss_fn(
            old_log_prob=batch.old[part],
            log_prob=batch.log_prob[part],
            advantages=batch.advantages[part],
            response_mask=batch.mask[part],
            loss_agg_mode="token-mean",
            config=actor,
            rollout_is_weights=None,
        )
        losses.append(loss / ranks)
        reported.append(metrics)
    torch.testing.assert_close(sum(losses), core, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(loss, batch.log_prob)[0] for loss in (sum(losses), core)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    assert 0.8 * count < gradients[0].count_nonzero() <= count

    pooled = {}
    for metrics in reported:
        append_to_dict(pooled, Metric.from_dict(metrics, "mean"))
    values = ratio_diagnostics(batch.log_prob - batch.old, batch.advantages, batch.mask, lam)
    for name in ("ratio_variance", "sign_flip", "kl"):
        mean = pooled[f"r2vpo/{name}"].aggregate() / pooled["r2vpo/tokens"].aggregate()
        assert mean == pytest.approx(values[name], rel=1e-6)


def test_padding_has_no_say(config):
    batch = padded_batch()
    batch.old[~batch.mask] = torch.nan
    batch.advantages[~batch.mask] = torch.inf
    actor = actor_config(config)
    loss, metrics = get_policy_loss_fn("r2vpo")(batch.old, batch.log_prob, batch.advantages, batch.mask, config=actor)
    loss.backward()
    assert batch.log_prob.grad.isfinite().all()
    assert all(torch.tensor(list(metrics.values())).isfinite())


def test_the_loss_refuses_a_configuration_without_lambda_and_weights_of_another_kind(config):
    batch = padded_batch()
    arguments = (batch.old, batch.log_prob, batch.advantages, batch.mask, "token-mean")
    with pytest.raises(ConfigError, match="R2VPOPolicyLossConfig"):
        adapter.r2vpo_policy_loss(*arguments, SimpleNamespace(policy_loss=PolicyLossConfig(loss_mode="r2vpo")))
    with pytest.raises(ConfigError, match="rollout_is"):
        adapter.r2vpo_policy_loss(*arguments, actor_config(config), batch.mask.float())
    with pytest.raises(ConfigError, match="anchor='proximal' is not allowed"):  # in another trainer of verl's
        adapter.r2vpo_policy_loss(*arguments, actor_config(config, anchor="proximal"), None)


def test_weights_of_the_proximal_anchor_multiply_the_advantages(config):
    batch, weights = padded_batch(), torch.rand(6, 9)
    actor = actor_config(config, anchor="proximal", objective="spo")
    losses = [
        adapter.r2vpo_policy_loss(
            batch.old, batch.log_prob, advantages, batch.mask, "token-mean", actor, rollout_is_weights=given
        )
        for advantages, given in ((batch.advantages, weights), (batch.advantages * weights, torch.ones(6, 9)))
    ]
    torch.testing.assert_close(losses[0][0], losses[1][0])
    assert losses[0][1] == pytest.approx(losses[1][1])


def test_lambda_reaches_the_loss_through_a_pickle(config):
    """Ray sends the loss to the workers as bytes."""
    batch = padded_batch()
    arguments = (batch.old, batch.log_prob, batch.advantages, batch.mask, "token-mean")
    losses = []
    for lam in (0.0, 5.0):
        loss_fn = pickle.loads(pickle.dumps(partial(ppo_loss, config=actor_config(config, lam))))
        losses.append(POLICY_LOSS_REGISTRY["r2vpo"](*arguments, loss_fn.keywords["config"])[0].item())
    variance = ratio_diagnostics(batch.log_prob - batch.old, batch.advantages, batch.mask)["ratio_variance"]
    assert losses[1] - losses[0] == pytest.approx(5.0 * variance, rel=1e-5)
