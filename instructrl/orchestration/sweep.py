"""Runs the points of a sweep; stages that points share run once."""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import shlex
import sys
from typing import Any

from instructrl.orchestration import commands
from instructrl.orchestration import estimate
from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.orchestration import outcomes
from instructrl.orchestration import reproduced
from instructrl.orchestration import taken
from instructrl.orchestration.children import Children
from instructrl.orchestration.children import DONE
from instructrl.orchestration.children import Job
from instructrl.orchestration.reproduced import Page
from instructrl.orchestration.versions import versions
from instructrl.reports import reproduction
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.stages import checks

PROGRAM = ('-m', 'instructrl.main')


@dataclasses.dataclass(frozen=True)
class Part:
  """One ablation, alone or among those of a composite config.

  Attributes:
    name: of the sweep and of the folder with its results.
    title: the first line is the heading of the results page; text follows.
    config: the sweep's config.
    sweep: its points and nodes.
  """

  name: str
  title: str
  config: Any
  sweep: graph.Sweep


def load(
  path: str, config, settings: Sequence[str], workdir
) -> tuple[list[Part], Page | None]:
  """Reads an ablation's file, or that of a composite, and builds the points.

  Args:
    path: a Python file with `get_config` and `sweep(add, config)`; or with
      `PARTS`, name -> such a module, if the config has `parts`.
    config: the config of the file.
    settings: 'STAGE.field=a,b,c' of the command line.
    workdir: the folder of the runs.

  Returns:
    The sweeps, and the page about a composite that has `CLAIMS`.
  """
  stem = pathlib.Path(path).stem
  spec = importlib.util.spec_from_file_location(stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if 'parts' not in config:
    return [_part(stem, module, config, settings, workdir)], None
  checks.require(
    bool(config.order), 'order is empty: name one or more of the parts'
  )
  for name in config.order:
    checks.require(
      name in config.parts and name in module.PARTS,
      f'order must name parts of the config, {", ".join(config.parts)}; got '
      f'{name!r}',
    )
    checks.require(
      config.order.count(name) == 1,
      f'order must name each part once; {name!r} is twice',
    )
  parts = [
    _part(name, module.PARTS[name], config.parts[name], settings, workdir)
    for name in config.order
  ]
  claims = getattr(module, 'CLAIMS', ())
  problems = reproduction.faults(claims, [*config.parts])
  checks.require(not problems, '; '.join(problems))
  title = (module.__doc__ or stem).strip().partition('\n')[0].rstrip('.')
  about = getattr(module, 'ABOUT', ())
  if not claims:
    return parts, None
  given = commands.changed(f'{path}:{parts[0].config.size}', config, settings)
  others = [
    _part(name, module.PARTS[name], config.parts[name], settings, workdir)
    for name in config.parts
    if name not in config.order
    and (pathlib.Path(workdir) / name / outcomes.JSON).is_file()
  ]
  return parts, Page(stem, path, title, claims, about, given, others)


def _part(name: str, module, config, settings, workdir) -> Part:
  checks.require(
    callable(getattr(module, 'sweep', None)),
    f'{module.__file__} has no sweep(add, config); this function adds the '
    'points',
  )
  points = grid.expand(grid.collect(module.sweep, config), config, settings)
  made = graph.of_sweep(config, points, workdir)
  for label, same in made.merged:
    print(f'{name}: {label} equals {same}; it runs once', file=sys.stderr)
  return Part(name, module.__doc__ or name, config, made)


def all_nodes(parts: Sequence[Part]) -> dict[str, graph.Node]:
  """Returns the nodes of all parts by name; equal nodes are one."""
  nodes: dict[str, graph.Node] = {}
  for part in parts:
    for name, node in part.sweep.nodes.items():
      nodes.setdefault(name, node)
  return nodes


def print_commands(parts: Sequence[Part], workdir, seconds) -> None:
  """Prints a shell command for each run; runs that others need come first.

  Args:
    parts: the sweeps.
    workdir: the folder of the runs.
    seconds: see `estimate.describe`.
  """
  nodes = all_nodes(parts)
  depth: dict[str, int] = {}  # runs that must finish before, one after another
  for node in nodes.values():
    depth[node.name] = 1 + max((depth[n] for n in node.needs), default=-1)
  for node in sorted(nodes.values(), key=lambda node: depth[node.name]):
    print(shlex.join(['python', *PROGRAM, *commands.arguments(node, workdir)]))
  levels = sorted(depth.values())
  groups = []
  for level in sorted({*levels}):
    first, count = levels.index(level) + 1, levels.count(level)
    groups.append(f'{first}-{first + count - 1}' if count > 1 else f'{first}')
  points = sum(len(part.sweep.points) for part in parts)
  print(
    f'{_names(parts)}: {points} points, {len(levels)} commands. Commands of '
    'one group can run at the same time, after all groups before it; the '
    f'groups are the lines {", ".join(groups)}. Then run this command without '
    '--print to collect the results',
    file=sys.stderr,
  )
  print(estimate.describe(nodes.values(), workdir, seconds), file=sys.stderr)


def _names(parts: Sequence[Part]) -> str:
  return parts[0].name if len(parts) == 1 else f'{len(parts)} sweeps'


def run(
  parts: Sequence[Part],
  workdir,
  *,
  page: Page | None = None,
  parallel: int = 1,
  program: Sequence[str] = PROGRAM,
  source: str = '',
) -> list[dict]:
  """Runs what is not finished; each part has the results of its runs so far.

  Args:
    parts: the sweeps, in the order in which their runs begin.
    workdir: the folder of the runs.
    page: about all parts; written again whenever a part is finished.
    parallel: runs at a time.
    program: arguments of the interpreter before the flags of a run.
    source: folder of finished runs, which are taken where they are the same.

  Returns:
    For each part the content of sweep.json, and 'blocked': runs that could not
    begin.
  """
  workdir = pathlib.Path(workdir)
  wanted = {}
  for part in parts:
    _check_given(part.config)
    # The report of a study reads the folders of all stages.
    ends = [
      p.runs[stage]
      for p in part.sweep.points
      for stage in (p.runs if part.config.studies else part.config.ends)
    ]
    for node in graph.needed(part.sweep.nodes, ends, workdir):
      wanted.setdefault(node.name, node)
  titles = graph.titles([part.sweep for part in parts])
  jobs = [
    _job(node, titles[node.name], wanted, workdir, program)
    for node in wanted.values()
  ]
  finished = taken.Finished(source) if source else None

  def take(name):
    return str(finished.take(wanted[name], workdir) or '') if finished else ''

  graph.check_folders(wanted.values(), workdir)  # before anything is written
  with contextlib.ExitStack() as locks:
    for part in parts:
      (workdir / part.name).mkdir(parents=True, exist_ok=True)
      locks.enter_context(run_folder.only_process(workdir / part.name))
    results = _Results(parts, workdir, page)
    results.children = Children(jobs, parallel, results.changed, take)
    for part in parts:
      _print_start(part, workdir / part.name)
    done = sum(s == DONE for s in results.children.status.values())
    points = sum(len(part.sweep.points) for part in parts)
    print(
      f'{_names(parts)}: {points} points; {done} of {len(jobs)} runs are done',
      flush=True,
    )
    try:
      results.children.run()
    finally:
      results.show(part for part in parts if part.name not in results.shown)
      results.write_page()
  blocked = results.children.blocked()
  return [
    results.collect(part) | {'blocked': _of(part, blocked)} for part in parts
  ]


class _Results:
  """Writes the results of the parts of a sweep while its runs go on."""

  def __init__(self, parts: Sequence[Part], workdir, page: Page | None):
    self.children: Children
    self.shown: set[str] = set()  # finished parts whose results are written
    self._parts, self._workdir, self._page = parts, workdir, page
    self._versions = versions()

  def collect(self, part: Part) -> dict:
    """Returns the content of the part's sweep.json."""
    return {'versions': self._versions} | outcomes.collect(
      part.name,
      part.config,
      part.sweep,
      self._workdir,
      self.children.status,
      _of(part, self.children.reasons),
      self.children.diverged,
    )

  def changed(self) -> None:
    """Writes what is new after a run has ended."""
    finished = []
    for part in self._parts:
      if part.name not in self.shown:
        found = self.collect(part)
        outcomes.write_json(self._workdir / part.name, found)
        if all(point['status'] == DONE for point in found['points']):
          finished.append(part)
    self.show(finished)
    self.shown.update(part.name for part in finished)
    if finished:
      self.write_page()

  def show(self, parts: Iterable[Part]) -> None:
    """Writes all files of the results of some parts."""
    for part in parts:
      found = self.collect(part)
      outcomes.write(self._workdir / part.name, found, part.title)
      if part.config.studies:
        reproduced.report_studies(part, found['points'], self._workdir)

  def write_page(self) -> None:
    if self._page:
      found = {part.name: (part, self.collect(part)) for part in self._parts}
      for part in self._page.others:
        results = _before(part, self._workdir / part.name)
        if results.get('config') == json.loads(part.config.to_json()):
          found[part.name] = part, results
        else:
          print(f'{part.name}: its results are of another config', flush=True)
      path = reproduced.write(self._page, *zip(*found.values()), self._workdir)
      print(f'{self._page.name}: {path}', flush=True)


def _check_given(config) -> None:
  for stage, path in config.given.items():
    checks.require(
      not path or typed.path(path).is_dir(),
      f'given.{stage}: there is no folder {path}',
    )


def _of(part: Part, runs):
  """Returns the runs, names or by name, that a part needs."""
  names = part.sweep.nodes
  if isinstance(runs, Mapping):
    return {name: value for name, value in runs.items() if name in names}
  return [name for name in runs if name in names]


def _job(
  node: graph.Node, title: str, wanted: Mapping, workdir: pathlib.Path, program
) -> Job:
  return Job(
    node.name,
    node.stage,
    [sys.executable, *program, *commands.arguments(node, workdir)],
    workdir / node.name,
    tuple(need for need in node.needs if need in wanted),
    title,
  )


def _print_start(part: Part, folder: pathlib.Path) -> None:
  failed = _before(part, folder).get('failed', {})
  for run_name, why in _of(part, failed).items():
    title = why.get('title', run_name)
    print(f'{part.name}: {title} failed before; trying again', flush=True)


def _before(part: Part, folder: pathlib.Path) -> dict:
  """Returns the content of a part's sweep.json; {} if there is none."""
  path = folder / outcomes.JSON
  try:
    return files.read_json(path) if path.exists() else {}
  except ValueError as error:
    print(f'{part.name}: {error}; it is made again', file=sys.stderr)
    return {}


def finish(workdir, found: Sequence[dict]) -> None:
  """Prints the results; exits with a status other than 0 if a point is left."""
  points, failed, blocked = [], {}, set()
  for results in found:
    print(outcomes.text(results))
    for line in results['missing']:
      print(f'missing: {line}')
    page = pathlib.Path(workdir) / results['name'] / outcomes.PAGE
    print(f'{results["name"]}: {page}', flush=True)
    points += results['points']
    failed |= results['failed']
    blocked |= {*results['blocked']}
  for why in failed.values():
    print(
      f'failed: {why["title"]}: {why["reason"]}; log: {why["log"]}',
      file=sys.stderr,
    )
  unfinished = sum(point['status'] != DONE for point in points)
  left = f'{unfinished} of {len(points)} points are not done'
  if failed:
    sys.exit(
      f'error: {len(failed)} runs failed and {len(blocked)} could not begin; '
      f'{left}. Run the same command to try again'
    )
  if unfinished:
    print(f'{left}; run the same command to go on', file=sys.stderr)
    sys.exit(processes.EXIT_STOPPED)
