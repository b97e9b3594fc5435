"""Tasks carried out in the true environment, and what a world is good for: where planning and evaluation meet."""

from .planning_share import PlanningShare
from .policy_ranking import PolicyRanking
from .run import FLOORS, Camera, carry_out, figures, gif

__all__ = ["FLOORS", "Camera", "PlanningShare", "PolicyRanking", "carry_out", "figures", "gif"]
