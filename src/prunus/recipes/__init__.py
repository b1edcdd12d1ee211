"""What did the user say, and do it: recipes read, checked, executed."""

from prunus.recipes.analysis import Analysis, analyse
from prunus.recipes.engine import Result, run
from prunus.recipes.inspection import Inspection, inspect_model
from prunus.recipes.load import load_recipe
from prunus.recipes.opening import Opened, open_recipe, read_facts
from prunus.recipes.packaged import quickstart
from prunus.recipes.preview import preview
from prunus.recipes.schema import Recipe, json_schema
from prunus.recipes.searching import Searched, search_recipe
from prunus.recipes.stages import Effort
from prunus.recipes.verification import verify_file

__all__ = [
    "Analysis",
    "Effort",
    "Inspection",
    "Opened",
    "Recipe",
    "Result",
    "Searched",
    "analyse",
    "inspect_model",
    "json_schema",
    "load_recipe",
    "open_recipe",
    "preview",
    "quickstart",
    "read_facts",
    "run",
    "search_recipe",
    "verify_file",
]
