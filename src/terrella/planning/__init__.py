"""Search in a world: objectives, planners, control that plans again after every frame; and reasoners at rest."""

from .base import Plan, Planner, SamplingPlanner, Settings, Trace, make_planner
from .beam import Beam
from .best_first import BestFirst
from .best_of import BestOf
from .catalogue import TASKS, find_task, task_in
from .cem import CEM, ICEM
from .critics import AskForChoice, ByObjective, ByPicture, GridNarrator, SentenceCritic
from .deliberate import Decision, Deliberate, DeliberateSettings, Deliberator
from .errands import ERRANDS, GOALS, Errand, missing
from .feasibility import Feasibility, feasibility
from .gradient import Gradient
from .language_models import Endpoint, LanguageModel, LocalModel
from .learned import Disagreement, Energy, Inconsistency, PolicyPrior, StateValue, Value
from .maze_reader import MazeReader
from .mcts import MCTS
from .mpc import MPC, Acting, Actor, Controller
from .mppi import MPPI
from .objective import Constraint, Distance, Effort, Function, Future, Objective, Return, Sum
from .propose import Guided, propose
from .proposers import (
    AskForSentences,
    Enumerate,
    Proposed,
    Scene,
    SentenceProposer,
    grammar_sentences,
    recorded_sentences,
)
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
    "ERRANDS",
    "GOALS",
    "ICEM",
    "MCTS",
    "MPC",
    "MPPI",
    "TASKS",
    "Acting",
    "Actor",
    "AskForChoice",
    "AskForSentences",
    "Beam",
    "BestFirst",
    "BestOf",
    "Blind",
    "ByObjective",
    "ByPicture",
    "Constraint",
    "Controller",
    "Decision",
    "Deliberate",
    "DeliberateSettings",
    "Deliberator",
    "Disagreement",
    "Distance",
    "Effort",
    "Endpoint",
    "Energy",
    "Enumerate",
    "Episode",
    "Errand",
    "Feasibility",
    "Follower",
    "Function",
    "Future",
    "Goal",
    "Gradient",
    "GridNarrator",
    "Guided",
    "Inconsistency",
    "LanguageModel",
    "LocalModel",
    "MazeReader",
    "Moment",
    "Objective",
    "Plan",
    "Planner",
    "PolicyPrior",
    "PredictiveSampling",
    "Proposed",
    "Proposer",
    "RandomShooting",
    "Reasoned",
    "Return",
    "SamplingPlanner",
    "Scene",
    "Search",
    "SentenceCritic",
    "SentenceProposer",
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
    "grammar_sentences",
    "make_planner",
    "missing",
    "plan",
    "play",
    "propose",
    "recorded_sentences",
    "task_in",
]
