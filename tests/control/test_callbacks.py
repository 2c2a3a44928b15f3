"""Callbacks: when they are called, and what they may do."""

from small_envs import IdentityEnv

from r2vpo.control import R2VPO, BaseCallback, CallbackList, EvalCallback
from r2vpo.control.callbacks import StopTrainingOnMaxEpisodes

SMALL = {"num_envs": 4, "rollout_steps": 32, "minibatch_size": 32, "epochs": 4, "eval_episodes": 0}


def test_order_and_counts():
    calls = []

    class Recorder(BaseCallback):
        def _on_training_start(self):
            calls.append("start")

        def _on_rollout_start(self):
            calls.append("rollout")

        def _on_step(self):
            calls.append(self.num_timesteps)
            return True

        def _on_rollout_end(self):
            calls.append("rollout end")

        def _on_training_end(self):
            calls.append("end")

    R2VPO(IdentityEnv, num_envs=2, rollout_steps=2, minibatch_size=2).learn(8, callback=[Recorder()])
    assert calls == ["start", "rollout", 2, 4, "rollout end", "rollout", 6, 8, "rollout end", "end"]


def test_function_stops_after_the_iteration():
    model = R2VPO(IdentityEnv, **SMALL)
    model.learn(10_000, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 200)
    assert model.num_timesteps == 256


def test_list_stops_when_one_does():
    model = R2VPO(IdentityEnv, **SMALL)
    model.learn(10_000, callback=CallbackList([BaseCallback(), StopTrainingOnMaxEpisodes(10)]))
    assert model.num_timesteps == 256


def test_evaluation_keeps_the_best_model(tmp_path):
    callback = EvalCallback(eval_freq=512, n_eval_episodes=5, best_model_save_path=tmp_path)
    model = R2VPO(IdentityEnv, gamma=0.5, learning_rate=3e-3, **SMALL).learn(4_096, callback=callback)
    assert [step for step, _ in callback.evaluations] == list(range(512, 4097, 512))
    best = R2VPO.load(tmp_path / "best_model.zip", env=IdentityEnv)
    assert best.evaluate(5, seed=model.config.seed + 1_000_000).mean == callback.best_mean_reward
