"""Experiments that train models: the rows of a table become jobs, their results the table.

Images of the size of a paper's set get its setting. The built-in digits (8 x 8, grey) get the setting ``tiny`` with the
paper's likelihood: they show that everything works, and their numbers say nothing about the paper's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from motionlex.data.errors import UserError
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options, Report, TrainingJob
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.images.recipes import Recipe
from motionlex.motion_vae.images.settings import SETTINGS
from motionlex.motion_vae.images.tables import Measure, TableLayout, report_models
from motionlex.motion_vae.registry import has_setting

TINY = "tiny"
Drawer = Callable[[Options, Sequence[Finished], Path], Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a table."""

    name: str
    """In the table."""
    slug: str
    """In names of folders."""
    method: str
    """In the registry."""
    changes: tuple[str, ...] = ()
    """Of the setting's recipe, as ``name=value``."""
    tiny_changes: tuple[str, ...] | None = None
    """Those on the built-in digits, where they differ."""
    paper: dict[str, float] = field(default_factory=dict)
    """The paper's values by key of evaluation.json."""
    setting: str | None = None
    """Where it is not the experiment's, for images of the same size."""
    tiny_setting: str = TINY
    """On the built-in digits."""


def experiment(
    name: str,
    summary: str,
    *,
    setting: str,
    data: str,
    rows: Sequence[Row],
    measures: tuple[Measure, ...],
    notes: tuple[str, ...] = (),
    resampled: bool = False,
    draw: Drawer | None = None,
    job: type[TrainingJob] = TrainingJob,
) -> Experiment:
    """Make an experiment of the rows of a table.

    Args:
        name: What the user types.
        summary: One line for listings.
        setting: For images of the size of the paper's.
        data: The paper's data set.
        rows: The models.
        measures: Columns.
        notes: What a reader of the table must know.
        resampled: Whether black and white are drawn anew at every reading.
        draw: Draws further figures.
        job: What is done with every model.
    """
    layout = TableLayout(
        title=summary,
        measures=measures,
        paper={row.name: row.paper for row in rows},
        paper_data=data,
        notes=notes,
    )
    return Experiment(
        name=name,
        summary=summary,
        data=data,
        jobs=partial(model_jobs, rows, setting, resampled, job),
        report=partial(_report, layout, draw),
    )


def model_jobs(
    rows: Sequence[Row], setting: str, resampled: bool, job: type[TrainingJob], options: Options
) -> tuple[TrainingJob, ...]:
    """One job for every row and seed; see :func:`experiment`."""
    own = setting_for(setting, options)
    tiny = own == TINY
    jobs = []
    for row in rows:
        chosen = row.tiny_setting if tiny else row.setting or own
        changes = row.changes if row.tiny_changes is None or not tiny else row.tiny_changes
        preset = image_preset(row.method, chosen)[0]
        steps = options.steps or preset.optimisation.steps
        further = tuple(change for change in options.changes if has_setting(preset, change))
        for seed in options.seeds:
            recipe = Recipe(
                method=row.method,
                setting=chosen,
                data=options.data,
                data_root=options.data_root,
                family=SETTINGS[setting].domain.likelihood_config.family,
                resampled=resampled,
                changes=(*changes, *further),
                width=options.width,
                batch=options.batch,
                steps=steps,
                seed=seed,
            )
            jobs.append(job(row=row.name, slug=row.slug, recipe=recipe, images=options.images))
    for change in options.changes:
        if not any(change in job.recipe.changes for job in jobs):
            raise UserError(f"--set {change}: no row of this experiment has such a setting")
    return tuple(jobs)


def setting_for(setting: str, options: Options) -> str:
    """The paper's setting for images of its size and set, ``tiny`` for the built-in digits.

    Raises:
        UserError: On images of another size.
    """
    for name in (setting, TINY):
        domain = SETTINGS[name].domain
        if (*domain.grid, domain.channels) == options.shape:
            return SETTINGS[name].variants.get(options.data, name)
    wanted = " x ".join(map(str, (*SETTINGS[setting].domain.grid, SETTINGS[setting].domain.channels)))
    raise UserError(
        f"--data {options.data}: its images are of {' x '.join(map(str, options.shape))}, this experiment is for "
        f"images of {wanted}, or for the built-in digits"
    )


def _report(
    layout: TableLayout, draw: Drawer | None, options: Options, finished: Sequence[Finished], folder: Path
) -> Report:
    text, plain, files = report_models(layout, options, finished, folder)
    further = [] if draw is None else draw(options, finished, folder)
    return text, plain, [*files, *further]
