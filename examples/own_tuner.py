"""Tune with a tuner of your own: random search that zooms in, stage by stage.

python examples/own_tuner.py
"""

import numpy as np

import lrjax
from lrjax.hpo.tuners import Stage, Trial, place


@lrjax.register_tuner("zoom")
class Zoom:
    def __init__(self, problem):
        self.ranges, self.budget = problem.space.ranges, problem.max_budget
        size = problem.trials, len(self.ranges)
        self.draws = np.random.default_rng(problem.seed).uniform(-0.5, 0.5, size)
        self.best, self.number = 0.5, 0  # the middle of all ranges, which are 0 to 1

    def plan(self, first):  # the stages, as far as they are known beforehand
        return [Stage(first, self.budget, self.budget)] * (len(self.draws) // first)

    def ask(self):  # four trials, which train together; none at the end
        draws = self.draws[self.number : self.number + 4] / 2 ** (self.number // 4)
        self.points, trials = np.clip(self.best + draws, 0, 1), []
        for point in self.points:
            values = map(place, self.ranges.values(), point)  # also on log scales
            self.number += 1
            hparams = dict(zip(self.ranges, values, strict=True))
            trials.append(Trial(self.number, hparams, self.budget))
        return trials

    def tell(self, outcomes):  # of these trials, in their order
        self.best = self.points[np.argmin([outcome.cost for outcome in outcomes])]


space = {"learning_rate": (1e-4, 1.0, "log"), "b1": (0.0, 0.99)}
tuned = lrjax.tune("digits/logistic", "adam", trials=16, tuner="zoom", space=space)
print(tuned.trials[["learning_rate", "b1", "cost"]])
