"""A policy that `r2vpo control export` wrote, driving a robot: needs numpy and onnxruntime, neither torch nor r2vpo.

    r2vpo control export runs/hopper
    python examples/run_onnx.py runs/hopper/policy.onnx

Gymnasium stands in for the robot: what reads its sensors and sends it actions takes the place of `env`.
"""

import argparse
import json
import time

import gymnasium
import numpy as np
import onnxruntime


def main() -> None:
    """Run the policy and print how it went, as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="the .onnx file")
    parser.add_argument("--steps", type=int, default=1000, help="control steps")
    options = parser.parse_args()

    policy = onnxruntime.InferenceSession(options.policy)
    about = json.loads(policy.get_modelmeta().custom_metadata_map["r2vpo"])
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}[policy.get_inputs()[0].type]

    env = gymnasium.make(about["env"])
    sensors, _ = env.reset(seed=0)
    first, score, slowest = None, 0.0, 0.0
    for _ in range(options.steps):
        begun = time.perf_counter()
        observations = sensors[None].astype(dtype)  # raw: the file normalises, and knows the bounds of the actions
        action = policy.run(["actions"], {"observations": observations})[0][0]
        slowest = max(slowest, time.perf_counter() - begun)
        first = action if first is None else first
        sensors, reward, terminated, truncated, _ = env.step(action)
        score += float(reward)
        if terminated or truncated:
            sensors, _ = env.reset()
    print(
        json.dumps(
            {"steps": options.steps, "reward": score, "slowest_ms": 1e3 * slowest, "first_action": first.tolist()}
        )
    )


if __name__ == "__main__":
    main()
