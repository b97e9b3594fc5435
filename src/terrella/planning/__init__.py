"""Search in a world: objectives, planners, control that plans again after every frame; and reasoners at rest."""

from .base import Plan, Planner, SamplingPlanner, Settings, Trace, make_planner
from .beam import Beam
from .best_first import BestFirst
from .best_of import BestOf
from .catalogue import TASKS, find_task, task_in
from .cem import CEM, ICEM
from .feasibility import Feasibility, feasibility
from .gradient import Gradient
from .learned import Disagreement, Energy, Inconsistency, PolicyPrior, StateValue, Value
from .maze_reader import MazeReader
from .mcts import MCTS
from .mpc import MPC, Controller
from .mppi import MPPI
from .objective import Constraint, Distance, Effort, Function, Future, Objective, Return, Sum
from .propose import Guided, propose
from .reasoned import Follower, Proposer, Reasoned
from .run import plan
from .search import Search, Space
from .select import Verified
from .shooting import PredictiveSampling, RandomShooting
from .simulator import Simulator
from .tasks import Goal, Moment, Task
from .trial import Blind, Episode, Start, attempt, begin, controller, play

__all__ = [
    "CEM",
    "ICEM",
    "MCTS",
    "MPC",
    "MPPI",
    "TASKS",
    "Beam",
    "BestFirst",
    "BestOf",
    "Blind",
    "Constraint",
    "Controller",
    "Disagreement",
    "Distance",
    "Effort",
    "Energy",
    "Episode",
    "Feasibility",
    "Follower",
    "Function",
    "Future",
    "Goal",
    "Gradient",
    "Guided",
    "Inconsistency",
    "MazeReader",
    "Moment",
    "Objective",
    "Plan",
    "Planner",
    "PolicyPrior",
    "PredictiveSampling",
    "Proposer",
    "RandomShooting",
    "Reasoned",
    "Return",
    "SamplingPlanner",
    "Search",
    "Settings",
    "Simulator",
    "Space",
    "Start",
    "StateValue",
    "Sum",
    "Task",
    "Trace",
    "Value",
    "Verified",
    "attempt",
    "begin",
    "controller",
    "feasibility",
    "find_task",
    "make_planner",
    "plan",
    "play",
    "propose",
    "task_in",
]
