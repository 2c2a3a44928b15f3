"""``python -m r2vpo.llm.verl.main key=value ...``: verl's own entry point with what R²VPO needs filled in.

Takes every option of ``verl.trainer.main_ppo``; what is given on the command line wins over what is filled in here,
and :func:`r2vpo.llm.verl.config.check_config` refuses what cannot work before Ray starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig
from verl.trainer.main_ppo import main as verl_main

from r2vpo.llm.verl.check import SAMPLER
from r2vpo.llm.verl.config import BYPASS_MODE, CONFIG_CLASS, POLICY_LOSS, ROLLOUT_CORRECTION, check_config

FILLED_IN = (
    f"{POLICY_LOSS}._target_={CONFIG_CLASS}",
    f"{POLICY_LOSS}.loss_mode=r2vpo",
    f"++{POLICY_LOSS}.rollout_correction={ROLLOUT_CORRECTION}",
    f"++{POLICY_LOSS}.objective=r2vpo",
    f"++{POLICY_LOSS}.objective_kwargs={{}}",
    f"++{POLICY_LOSS}.lam=0.04",
    f"++{POLICY_LOSS}.delta=null",
    f"++{POLICY_LOSS}.eta=null",
    f"++{POLICY_LOSS}.dual=null",
    f"++{POLICY_LOSS}.anchor=behaviour",
    f"{BYPASS_MODE}=True",
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.calculate_log_probs=True",
    "trainer.v1.trainer_mode=r2vpo",
    f"trainer.v1.sampler.custom_sampler.path={SAMPLER[0]}",
    f"trainer.v1.sampler.custom_sampler.name={SAMPLER[1]}",
    "++trainer.v1.sampler.sampler_kwargs.buffer_iterations=4",
    "++trainer.v1.sampler.sampler_kwargs.utd=2",
    "++trainer.v1.sampler.sampler_kwargs.seed=0",
)
"""Algorithm 2 of arXiv 2601.03320: lambda fixed at 0.04, buffer of 4 iterations, update-to-data ratio 2."""


def filled_in(arguments: Sequence[str]) -> list[str]:
    """What goes before these arguments; with ``anchor=proximal`` among them verl has to score anew what it draws."""
    proximal = f"{POLICY_LOSS}.anchor=proximal" in [argument.lstrip("+") for argument in arguments]
    return [*FILLED_IN, *([f"{BYPASS_MODE}=False"] if proximal else [])]


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def run(config: DictConfig) -> None:
    """Check the configuration and hand it to verl.

    Raises:
        ConfigError: See :func:`r2vpo.llm.verl.config.check_config`.
    """
    check_config(config)
    verl_main(config)


def main() -> None:
    """The command: hydra reads the process's arguments, the later of two for one key wins."""
    sys.argv[1:1] = filled_in(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
