"""Search in a world: objectives, planners, and control that plans again after every frame."""

from .base import Plan, Planner, SamplingPlanner, Settings, Trace, make_planner
from .cem import CEM, ICEM
from .mcts import MCTS
from .mpc import MPC, Controller
from .mppi import MPPI
from .objective import Constraint, Distance, Effort, Function, Future, Objective, Return, Sum
from .run import plan
from .search import Search, Space
from .shooting import PredictiveSampling, RandomShooting
from .simulator import Simulator
from .tree import Beam, BestFirst

__all__ = [
    "CEM",
    "ICEM",
    "MCTS",
    "MPC",
    "MPPI",
    "Beam",
    "BestFirst",
    "Constraint",
    "Controller",
    "Distance",
    "Effort",
    "Function",
    "Future",
    "Objective",
    "Plan",
    "Planner",
    "PredictiveSampling",
    "RandomShooting",
    "Return",
    "SamplingPlanner",
    "Search",
    "Settings",
    "Simulator",
    "Space",
    "Sum",
    "Trace",
    "make_planner",
    "plan",
]
