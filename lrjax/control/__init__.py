"""The learning rate as an action: a reinforcement learning environment and policies."""

from lrjax.control.env import (
    OBSERVATIONS,
    REWARDS,
    Data,
    Env,
    EnvState,
)
from lrjax.control.policies import Policy, rollout

__all__ = ["OBSERVATIONS", "REWARDS", "Data", "Env", "EnvState", "Policy", "rollout"]
