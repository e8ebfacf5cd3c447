"""Writes the page of a composite sweep: claims, from all its parts."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib
import shlex
from typing import Any

from instructrl.orchestration import children
from instructrl.orchestration import graph
from instructrl.orchestration import outcomes
from instructrl.orchestration import study
from instructrl.reports import reproduction
from instructrl.reports import verdicts


@dataclasses.dataclass(frozen=True)
class Page:
  """A page about all parts of a composite sweep.

  Attributes:
    name: of its folder in the folder of the runs.
    path: of the Python file of the composite, for commands.
    title: its heading.
    claims: what the page shows; see `reports.reproduction`.
    about: paragraphs at its top.
    flags: of the command line, for commands.
    others: parts that are not run now, and have results; of type `sweep.Part`.
  """

  name: str
  path: str
  title: str
  claims: Sequence[Mapping[str, Any]]
  about: Sequence[str] = ()
  flags: Sequence[str] = ()
  others: Sequence[Any] = ()


def write(page: Page, parts: Sequence, found: Sequence[Mapping], workdir):
  """Writes DIR/NAME from the runs that are finished; returns the page's path.

  Args:
    page: what to write.
    parts: the parts of the sweep, of type `sweep.Part`.
    found: for each part the content of sweep.json.
    workdir: the folder of the runs.
  """
  workdir = pathlib.Path(workdir)
  size = parts[0].config.size
  command = f'python -m instructrl.sweep --config={page.path}:{size}'
  flags = shlex.join([*page.flags, '--workdir=DIR'])
  studies: list[pathlib.Path] = []
  whole, others = None, []
  for part, results in zip(parts, found):
    seeds = {
      point['seed']
      for point in results['points']
      if point['status'] == children.DONE
    }
    made = reproduction.Evidence(
      part.name,
      f'{command} --config.order="(\'{part.name}\',)" {flags}',
      [verdicts.from_json(row) for row in results['verdicts']],
      f'{len(seeds)} seed{"s" * (len(seeds) != 1)}',
      functools.partial(_svg, results),
    )
    if part.config.studies:
      done = finished(part, results['points'], workdir)
      studies += [folder for _, folder in done]
      worlds = {str(point.overrides) for point, _ in done}
      runs = f'{len(done)} studies of {len(worlds)} worlds'
      whole = dataclasses.replace(made, runs=runs)
    others.append(made)
  return reproduction.write(
    workdir / page.name,
    page.title,
    f'{command} {flags}',
    page.claims,
    studies,
    whole,
    others,
    page.about,
  )


def _svg(results: Mapping, panels: str) -> str:
  return outcomes.figure(results, panels)[0]


def finished(
  part, found: Sequence[Mapping], workdir
) -> list[tuple[graph.Point, pathlib.Path]]:
  """Returns the finished points of a sweep of studies, and their folders."""
  return [
    (
      point,
      pathlib.Path(workdir)
      / part.name
      / point.label.replace(', ', '_').replace(' ', ''),
    )
    for point, state in zip(part.sweep.points, found)
    if state['status'] == children.DONE
  ]


def report_studies(part, found: Sequence[Mapping], workdir) -> None:
  """Makes a report for each finished point of a sweep of studies."""
  for point, folder in finished(part, found, workdir):
    path = study.report_point(point, part.sweep, workdir, folder)
    print(f'{part.name}: report: {path}', flush=True)
