"""A cart-pole that hangs down at the start and is rewarded only upright, on MuJoCo."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from r2vpo.envs.tasks.checks import Step, require_positive
from r2vpo.errors import ConfigError

MODEL = """
<mujoco model="cart-pole swing-up">
  <option timestep="0.01" integrator="RK4"/>
  <visual>
    <headlight ambient="0.4 0.4 0.4" diffuse="0.5 0.5 0.5"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0"/>
  </default>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.85 0.9 0.95" rgb2="0.5 0.6 0.7" width="64" height="64"/>
  </asset>
  <worldbody>
    <light directional="true" pos="0 -2 4" dir="0 0.4 -1"/>
    <camera name="track" mode="fixed" fovy="45" pos="0 -5 0" xyaxes="1 0 0 0 0 1"/>
    <geom name="rail" type="capsule" fromto="-1.6 0.1 0 1.6 0.1 0" size="0.02" rgba="0.35 0.35 0.4 1"/>
    <geom name="left mark" type="box" pos="-1 0.1 0" size="0.01 0.02 0.06" rgba="0.8 0.3 0.2 1"/>
    <geom name="right mark" type="box" pos="1 0.1 0" size="0.01 0.02 0.06" rgba="0.8 0.3 0.2 1"/>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0" limited="true" range="-1.5 1.5" damping="0.1"/>
      <geom name="cart" type="box" size="0.12 0.08 0.06" mass="1" rgba="0.2 0.35 0.6 1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" limited="false" damping="0.002"/>
        <geom name="pole" type="capsule" fromto="0 -0.1 0 0 -0.1 0.8" size="0.03" mass="0.2" rgba="0.9 0.6 0.1 1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slider" gear="15" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
"""A cart of 1 kg on a rail of 3 m, a free pole of 0.2 kg and 0.8 m, and a push of at most 15 N."""

# Gymnasium looks through this camera where none is named, and through the model's own for videos.
_CAMERA = {"distance": 5.0, "azimuth": 90.0, "elevation": 0.0, "lookat": np.zeros(3)}
_HANGING = np.array([0.0, np.pi])
_NOISE = 0.05


class SparseCartPoleSwingUp(MujocoEnv, EzPickle):
    """Swing a hanging pole up and keep it there; reward 1 in every step that ends upright, 0 in all others.

    Upright means that the pole is within ``angle`` of the vertical and the cart within ``reach`` of the middle of
    the rail, which has stops at 1.5 m on either side. Nothing ends an episode but the time limit. It succeeds if the
    pole has been upright for its last ``hold`` steps: ``info["is_success"]`` says of each step whether it has been for
    as long up to now, and that of the last step counts.

    The action is the push on the cart in units of 15 N, from -1 to 1, for 0.02 s. The observation is the position of
    the cart (m), the cosine and sine of the pole's angle (0 is up), and the two velocities (m/s, rad/s). An episode
    starts with the pole down and the cart in the middle, with uniform noise of 0.05 on positions and velocities.

    Args:
        angle: In degrees, below 180.
        reach: In m.
        hold: In steps.
        kwargs: Arguments of Gymnasium's ``MujocoEnv`` that concern rendering.

    Raises:
        ConfigError: An argument outside its range.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 50,
    }

    def __init__(self, angle: float = 15.0, reach: float = 1.0, hold: int = 100, **kwargs: Any) -> None:
        require_positive("angle", angle)
        if angle >= 180:
            raise ConfigError("angle", angle, "below 180 degrees")
        require_positive("reach", reach)
        require_positive("hold", hold)
        EzPickle.__init__(self, angle=angle, reach=reach, hold=hold, **kwargs)
        self.reach, self.hold = reach, hold
        self.lowest_cosine = float(np.cos(np.radians(angle)))
        self.upright_steps = 0
        high = np.array([np.inf, 1.0, 1.0, np.inf, np.inf])
        # MujocoEnv wants the path of a file that exists; the model is the text above.
        space = Box(-high, high, dtype=np.float64)
        super().__init__(__file__, 2, **{"observation_space": space, "default_camera_config": _CAMERA, **kwargs})

    @property
    def is_upright(self) -> bool:
        """Whether the pole is up and the cart within reach, now."""
        x, angle = self.data.qpos
        return bool(np.cos(angle) >= self.lowest_cosine and abs(x) <= self.reach)

    @property
    def is_success(self) -> bool:
        """Whether the pole has been upright for the last ``hold`` steps."""
        return self.upright_steps >= self.hold

    def step(self, action: NDArray[np.float32]) -> Step:
        """Take a step of 0.02 s; see :meth:`gymnasium.Env.step`."""
        self.do_simulation(action, self.frame_skip)
        upright = self.is_upright
        self.upright_steps = self.upright_steps + 1 if upright else 0
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), float(upright), False, False, {"is_success": self.is_success}

    def reset_model(self) -> NDArray[np.float64]:
        """Hang the pole down at the middle of the rail."""
        self.upright_steps = 0
        noise = self.np_random.uniform(-_NOISE, _NOISE, 4)
        self.set_state(_HANGING + noise[:2], noise[2:])
        return self._get_obs()

    def _get_obs(self) -> NDArray[np.float64]:
        x, angle = self.data.qpos
        return np.array([x, np.cos(angle), np.sin(angle), *self.data.qvel])

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = mujoco.MjModel.from_xml_string(MODEL)
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        return model, mujoco.MjData(model)
