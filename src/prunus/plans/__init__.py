"""What will happen? The plan, its proof, its application to the user's own class, saving and loading."""

from prunus.plans.fold import Folding, find_folding
from prunus.plans.graph_model import GraphModel
from prunus.plans.plan import Plan
from prunus.plans.proof import Proof
from prunus.plans.record import Record, record_of
from prunus.plans.reorder import fixed_order, reorder_
from prunus.plans.store import load, save
from prunus.plans.tensors import named_state
from prunus.plans.verify import Verdict, verify

__all__ = [
    "Folding",
    "GraphModel",
    "Plan",
    "Proof",
    "Record",
    "Verdict",
    "find_folding",
    "fixed_order",
    "load",
    "named_state",
    "record_of",
    "reorder_",
    "save",
    "verify",
]
