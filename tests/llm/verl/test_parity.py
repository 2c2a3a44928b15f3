"""The baselines beside verl's own losses of the same papers: value and gradient on one padded batch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig, PolicyLossConfig

from r2vpo.objectives import make_objective
from r2vpo.update import Scored, minibatch_loss

CASES = {
    "dppo_tv": ({"clip_ratio": 0.15, "clip_ratio_c": 1.5}, "dppo", {"cap": 1.5}),
    "dppo_kl": ({"clip_ratio": 0.05, "clip_ratio_c": 20.0}, "dppo", {"divergence": "kl", "delta": 0.05}),
    "sapo": ({"tau_pos": 1.5, "tau_neg": 2.0}, "sapo", {"tau_pos": 1.5, "tau_neg": 2.0}),
    "dro": ({"policy_loss": PolicyLossConfig(dro_beta=0.3)}, "log2", {"beta": 0.3}),
    "cispo": ({"clip_ratio_low": 1.0, "clip_ratio_high": 0.3}, "cispo", {"cap": 1.3}),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_verl(name):
    settings, objective, hyperparameters = CASES[name]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 1, 4, 7, 2, 9, 5, 3])
    mask = torch.arange(9) < lengths[:, None]
    old = -3.0 * torch.rand(8, 9, dtype=torch.float64, generator=generator)
    log_prob = (old + 0.6 * torch.randn(8, 9, dtype=torch.float64, generator=generator)).clamp(max=-0.01)
    log_prob.requires_grad_()
    advantages = torch.randn(8, 1, dtype=torch.float64, generator=generator).expand(8, 9).contiguous()
    count = int(mask.sum())

    clips = {"clip_ratio_low": settings.get("clip_ratio"), "clip_ratio_high": settings.get("clip_ratio")}
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **{**clips, **settings})
    config.global_batch_info.update(dp_size=1, batch_num_tokens=count, global_batch_size=8, loss_scale_factor=None)
    peer, _ = get_policy_loss_fn(name)(old, log_prob, advantages, mask, "token-mean", config)

    # verl weighs every completion alike in SAPO, whatever it is asked for.
    weight = (count / 8 / lengths)[:, None].expand(8, 9) if name == "sapo" else None
    scored = Scored(log_prob, old, advantages, mask, weight=weight)
    ours = minibatch_loss(make_objective(objective, **hyperparameters), scored, count)
    torch.testing.assert_close(ours, peer, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(loss, log_prob)[0] for loss in (ours, peer)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    if objective == "dppo":
        assert 2 < (gradients[0][mask] == 0).sum() < count / 2
