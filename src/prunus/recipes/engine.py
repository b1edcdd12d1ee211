"""The main job: train, prune, thin, prove, recalibrate, fine-tune, measure, save. Resumable at every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunus.plans import save
from prunus.recipes import stages
from prunus.recipes.analysis import write_page
from prunus.recipes.beginning import begun
from prunus.recipes.facts import collect
from prunus.recipes.folder import open_folder
from prunus.recipes.measuring import measure_both, measure_control
from prunus.recipes.opening import Opened
from prunus.recipes.session import Session
from prunus.runtimes import export_onnx
from prunus.training import Reporter, Silent


@dataclass(frozen=True)
class Result:
    """What a run left.

    facts: as docs/report.md says, without what the report computes from them. folder: where the files are.
    was_finished: the run had been finished before, and nothing was done.
    """

    facts: dict[str, Any]
    folder: Path
    was_finished: bool


def run(
    opened: Opened,
    *,
    fresh: bool = False,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Execute a recipe into its `out` folder, or go on where an earlier call was interrupted.

    opened: from `open_recipe` or `quickstart`.
    fresh: remove the earlier run. resume: there must be one.
    Raises PrunusError in one sentence; what is finished by then stays and is used by the next call.
    """
    recipe, root = opened.recipe, Path(opened.recipe.out)
    folder = open_folder(root, recipe.plain(), fresh=fresh, resume=resume)
    finished = None if folder.earlier is None else folder.facts()
    if finished is not None:
        return Result(finished, root, was_finished=True)
    with begun(opened, folder, reporter or Silent()) as session:
        facts = _run(session, opened)
    folder.finish(facts)
    return Result(facts, root, was_finished=False)


def _run(session: Session, opened: Opened) -> dict[str, Any]:
    model, trained = stages.train(session)
    graph = stages.find_structure(session, model)
    curves = stages.sensitivity(session, model, graph)
    page = None if curves is None else write_page(curves, opened, session.reporter)
    model, graph = stages.permute(session, model, graph)
    dense = session.parts.evaluate(model, "validation")
    made = stages.make_small(session, model, graph, dense)
    controls = {
        name: stages.make_small(session.control(name), session.dense_model(), graph, dense)
        for name in session.recipe.controls
    }
    measures = measure_both(session, session.dense_model(), made.model)
    return collect(
        session,
        small=made.model,
        pruned=made.pruned,
        graph=graph,
        curves=curves,
        history=[*trained, *made.pruned.rows, *made.rows],
        measures=measures,
        artifacts={**_save(session, made.model), **({} if page is None else {"sensitivity": page})},
        controls=[measure_control(session, name, small.model) for name, small in controls.items()],
    )


def _save(session: Session, small: nn.Module) -> dict[str, str]:
    finish = session.recipe.finish
    save(small, session.folder.path(finish.save))
    artifacts = {"model": finish.save, "recipe": "recipe.yaml", "log": "log.jsonl"}
    if finish.export == "onnx":
        name = f"{Path(finish.save).stem}.onnx"
        exported = export_onnx(small, session.example, path=session.folder.path(name))
        session.reporter.say(f"exported {name}; ONNX Runtime agrees to {exported.max_rel:.1e} (relative)")
        artifacts["onnx"] = name
    return artifacts
