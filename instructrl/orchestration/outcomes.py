"""Writes the results of a sweep so far: sweep.json, a table, a figure, a page.

All files are made from the run folders, and can be made again at any time.
"""

from collections.abc import Mapping, Sequence, Set
import functools
import json
import math
import pathlib
import re
import statistics
from typing import Any

from instructrl.orchestration import children
from instructrl.orchestration import graph
from instructrl.orchestration import grid
from instructrl.reports import formats
from instructrl.reports import pages
from instructrl.reports import plots
from instructrl.reports import shapes
from instructrl.reports import tables
from instructrl.reports import verdicts
from instructrl.runtime import files
from instructrl.runtime import metrics
from instructrl.runtime import run_folder

FORMAT_VERSION = 1
JSON, TABLE, FIGURE, PAGE = 'sweep.json', 'table.md', 'figure.png', 'index.html'
LAST = 5  # the last 1 / LAST of the lines in metrics.jsonl is averaged


class MissingError(ValueError):
  """A measure is missing in the files of a run."""


def read_measure(folder: pathlib.Path, file: str, place: str) -> float:
  """Returns a number from the files of a finished run.

  Args:
    folder: the run folder.
    file: DONE, metrics.jsonl or another JSON file.
    place: keys joined by dots; in metrics.jsonl the name of a metric, or
      'NAME@rise', its last value minus its first.

  Raises:
    MissingError: the file or the number is missing.
    ValueError: the file is not what the run wrote.
  """
  path = folder / file
  stat = path.stat() if path.is_file() else None
  found = _contents(folder, file, stat and (stat.st_mtime_ns, stat.st_size))
  if file == metrics.METRICS:
    name, _, rise = place.partition('@')
    values = [line[name] for line in found if name in line]
    if not values:
      raise MissingError(f'{path} has no metric {name!r}')
    if rise:
      return values[-1] - values[0]
    return statistics.fmean(values[-max(1, len(values) // LAST) :])
  if place not in found:
    raise MissingError(f'{path} has no number at {place!r}')
  return found[place]


@functools.lru_cache(maxsize=1024)
def _contents(folder: pathlib.Path, file: str, stamp) -> Any:
  """Returns the numbers or lines of a file, after a check of its digest.

  A sweep reads its measures whenever a run has ended. The sizes have nine
  points of 131 measures, and a file takes 33 ms of one core. A file with
  another `stamp` is read again.
  """
  run_folder.check_files(folder, [file])
  if stamp is None:
    raise MissingError(f'{folder / file} does not exist')
  if file == metrics.METRICS:
    return metrics.read_metrics(folder)
  return _numbers(files.read_json(folder / file))


def _numbers(tree: Mapping) -> dict[str, float]:
  """Returns {keys joined by dots: number} of all numbers in a tree."""
  return {path: value for path, value, _ in tables.leaves(tree)}


def collect(
  name: str,
  config,
  sweep: graph.Sweep,
  workdir,
  status: Mapping[str, str],
  reasons: Mapping[str, str],
  diverged: Set[str] = frozenset(),
) -> dict:
  """Returns the content of sweep.json.

  Args:
    name: name of the sweep.
    config: config of the sweep.
    sweep: its points and nodes.
    workdir: the folder of the runs.
    status: run -> its state; other runs are done.
    reasons: failed run -> why it failed.
    diverged: failed runs that stopped at a NaN or an infinite number.
  """
  workdir, titles = pathlib.Path(workdir), graph.titles([sweep])
  missing: list[str] = []
  points = [
    _point(point, config, workdir, status, missing)
    | {'diverged': not diverged.isdisjoint(point.runs.values())}
    for point in sweep.points
  ]
  lines = _lines(config, sweep.points, workdir, missing)
  return {
    'format_version': FORMAT_VERSION,
    'name': name,
    'config': json.loads(config.to_json()),
    'points': points,
    'settings': _settings(points, config),
    'lines': lines,
    'verdicts': [
      verdicts.to_json(row)
      for row in shapes.judge(config.expected, points, lines)
    ],
    'merged': [list(pair) for pair in sweep.merged],
    'failed': {
      run: {
        'title': titles[run],
        'reason': reason,
        'log': str(workdir / run / children.LOG),
      }
      for run, reason in reasons.items()
    },
    'missing': list(dict.fromkeys(missing)),
  }


def _point(point, config, workdir, status, missing) -> dict:
  state_of = lambda run: status.get(run, children.DONE)
  states = {state_of(point.runs[end]) for end in config.ends}
  if states != {children.DONE}:
    states |= {state_of(run) for run in point.runs.values()}
  measures, results = {}, {}
  for end in config.ends:
    folder = workdir / point.runs[end]
    done = run_folder.read_done(folder)
    if done is None:
      continue
    results[end] = _numbers(done)
    for title, stage, file, place in config.measures:
      if stage == end:
        try:
          measures[title] = read_measure(folder, file, place)
        except MissingError as error:
          missing.append(f'{title}: {error}')
  return {
    'overrides': dict(point.overrides),
    'seed': point.seed,
    'status': min(states, key=children.STATES.index),
    'runs': dict(point.runs),
    'measures': measures,
    'results': results,
  }


def _lines(config, points, workdir, missing) -> dict[str, dict]:
  """Returns {title of a measure: {label: value}}, means over the points.

  A line is a policy that no point changes, such as the pretrained model.
  """
  found: dict[str, dict] = {}
  for title, label, stage, file, place in config.lines:
    folders = {workdir / point.runs[stage] for point in points}
    done = [f for f in folders if run_folder.read_done(f) is not None]
    try:
      values = [read_measure(folder, file, place) for folder in sorted(done)]
    except MissingError as error:
      missing.append(f'{title}, {label}: {error}')
      continue
    if values:
      found.setdefault(title, {})[label] = statistics.fmean(values)
  return found


def _settings(points: Sequence[Mapping], config) -> list[dict]:
  """Returns each setting with mean and spread of its measures over seeds."""
  groups: dict[str, list] = {}
  for point in points:
    groups.setdefault(json.dumps(point['overrides']), []).append(point)
  settings = []
  for group in groups.values():
    found = {}
    for title, *_ in config.measures:
      values = [p['measures'][title] for p in group if title in p['measures']]
      if values:
        found[title] = {
          'mean': statistics.fmean(values),
          'values': values,
          # Sample standard deviation (n - 1) over the seeds.
          'spread': statistics.stdev(values) if len(values) > 1 else None,
        }
    overrides = group[0]['overrides']
    settings.append(
      {'overrides': overrides, 'measures': found, 'seeds': len(group)}
    )
  return settings


def write(folder, results: Mapping[str, Any], title: str) -> None:
  """Writes all files of the results into a folder."""
  folder = pathlib.Path(folder)
  write_json(folder, results)
  files.atomic_write(folder / TABLE, text(results))
  svg, png = figure(results)
  if png:
    files.atomic_write(folder / FIGURE, png)
  files.atomic_write(folder / PAGE, _page(results, title, svg))


def figure(results: Mapping[str, Any], only: str = '') -> tuple[str, bytes]:
  """Returns the figure as (inline SVG, PNG).

  Both are empty while fewer than two settings have values: one point shows no
  shape.

  Args:
    results: content of sweep.json.
    only: a regular expression, found anywhere in the titles of the panels that
      are drawn.
  """
  panels = [panel for panel in _panels(results) if re.search(only, panel[0])]
  with_values = sum(bool(s['measures']) for s in results['settings'])
  if not panels or with_values < min(2, len(results['settings'])):
    return '', b''
  plot = results['config']['plot']
  return plots.sweep(
    panels,
    xlabel=plot['label'] or plot['x'].rpartition('.')[2],
    log=plot['log'],
    joined=plot['joined'],
    levels=results['lines'],
    colors=plot['colors'],
  )


def write_json(folder, results: Mapping[str, Any]) -> None:
  """Writes the results into a folder, for programs."""
  files.write_json(pathlib.Path(folder) / JSON, results)


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Returns (header, rows): mean ± spread over the seeds of each setting."""
  settings = results['settings']
  fields = list(dict.fromkeys(key for s in settings for key in s['overrides']))
  titles = [measure[0] for measure in results['config']['measures']]
  rows = []
  for setting in settings:
    measures = setting['measures']
    cells = [_value(setting['overrides'].get(key, '')) for key in fields]
    cells += [_cell(measures[t]) if t in measures else '' for t in titles]
    done = max((len(m['values']) for m in measures.values()), default=0)
    rows.append([*cells, f'{done} of {setting["seeds"]}'])
  return [*grid.short_names(fields).values(), *titles, 'seeds'], rows


def markdown(results: Mapping[str, Any]) -> str:
  """Returns the table as Markdown."""
  return tables.markdown(*table(results))


def verdict_table(results: Mapping[str, Any]) -> tuple[list, list[list[str]]]:
  """Returns (header, rows): the verdict on each statement of the paper."""
  rows = [
    [
      row['statement'],
      row['paper'],
      row['verdict'],
      formats.measured(row, row['unit'], signed=True),
      row['quantity'],
      str(row['n'] or 0),
    ]
    for row in results['verdicts']
  ]
  return ['statement', 'paper', 'verdict', 'here', 'contrast', 'n'], rows


def text(results: Mapping[str, Any]) -> str:
  """Returns the tables of values and of verdicts as Markdown."""
  found = [markdown(results)]
  if results['verdicts']:
    found.append(tables.markdown(*verdict_table(results)))
  return '\n\n'.join(found) + '\n'


def _cell(found: Mapping) -> str:
  """Returns '0.1234 ± 0.0012': the mean to the second digit of its spread."""
  mean, spread = found['mean'], found['spread']
  if spread is None:
    return tables.cell(mean)
  if not spread or not 1e-6 < spread < 1e6:
    return f'{tables.cell(mean)} ± {spread:.2g}'
  digits = max(0, 1 - math.floor(math.log10(spread)))
  return f'{mean:.{digits}f} ± {spread:.{digits}f}'


def _value(value) -> str:
  value = _place(value)
  return f'{value:g}' if isinstance(value, float) else str(value)


def _panels(results: Mapping[str, Any]) -> list:
  """Returns the (title, lines) of each measure that has values, to plot."""
  plot = results['config']['plot']
  x, at = plot['x'], plot['at']
  settings = [s for s in results['settings'] if x in s['overrides']]
  names = grid.short_names(_line_fields(settings, plot))
  paper = {
    (title, _place(value)): number
    for title, value, number in results['config']['paper']
  }
  panels: dict[str, dict[str, plots.Line]] = {}
  for measure, *_ in results['config']['measures']:
    if measure == at:
      continue
    line, title = measure.split(': ', 1) if plot['lines'] else ('', measure)
    for setting in settings:
      found, fields = setting['measures'], setting['overrides']
      if measure not in found or at and at not in found:
        continue
      values = [f'{names[k]} {_value(fields.get(k, ""))}' for k in names]
      label = ', '.join([line, *values] if line else values)
      place = found[at]['mean'] if at else _place(fields[x])
      lines = panels.setdefault(title, {})
      drawn = lines.setdefault(label, plots.Line(label, [], []))
      one = found[measure]
      drawn.points.append((place, one['values'], one['mean'], one['spread']))
      if (value := paper.get((measure, _place(fields[x])))) is not None:
        drawn.paper.append((place, value))
  return [(title, list(lines.values())) for title, lines in panels.items()]


def _place(value) -> Any:
  """Returns where a value is on the axis: a checkpoint at its step."""
  if isinstance(value, list):
    return tuple(value)
  step = re.fullmatch(r'.*/checkpoints/(\d+)', str(value))
  return int(step[1]) if step else value


def _line_fields(settings: Sequence[Mapping], plot: Mapping) -> list[str]:
  """Returns the fields that name a line: those that distinguish equal x.

  `plot.by` is enough if the other fields follow from it, as the number of
  iterations follows from the batch size.
  """
  x, by = plot['x'], plot['by']
  points = [s['overrides'] for s in settings]
  others = list(dict.fromkeys(key for p in points for key in p if key != x))
  names = [by] if by in others else []
  places = {json.dumps([p.get(key) for key in (x, *names)]) for p in points}
  return names if len(places) == len(points) else others


def _page(results: Mapping[str, Any], title: str, svg: str) -> str:
  """Returns the sweep's HTML page.

  Args:
    results: content of sweep.json.
    title: title of the sweep, and paragraphs about it after empty lines.
    svg: the figure, or ''.
  """
  title, *paragraphs = [
    ' '.join(part.split()) for part in title.strip().split('\n\n')
  ]
  head, rows = table(results)
  problems = [
    f'{found["title"]}: {found["reason"]} ({found["log"]})'
    for found in results['failed'].values()
  ]
  points = []
  for point in results['points']:
    fields = point['overrides']
    names = grid.short_names(fields)
    points.append(
      {
        'setting': ', '.join(f'{names[k]}={_value(fields[k])}' for k in names),
        'seed': point['seed'],
        'status': point['status'],
        'runs': {end: point['runs'][end] for end in results['config']['ends']},
      }
    )
  return pages.render(
    'sweep',
    name=results['name'],
    title=title,
    text=paragraphs,
    problems=problems + results['missing'],
    svg=svg,
    head=head,
    rows=rows,
    verdicts=verdict_table(results) if results['verdicts'] else None,
    points=points,
  )
