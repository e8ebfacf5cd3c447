"""The page "The paper, reproduced": every claim, from all runs of a folder.

A claim is a row of a table of the paper's findings. Its statements come from
the studies, pooled over worlds and seeds, and from ablations. An experiment
lists its claims as dicts:

  dict(
    title='...',
    paper='what the paper reports, with its figures',
    studies='pattern',  # of 'topic: statement' in the report of a study
    parts={'kl_coef': 'pattern'},  # of statements of an ablation
    figures=('preference',),  # of a study's report; an ablation's are shown too
    panels={'kl_coef': 'pattern'},  # of titles, to show a part of its figure
    why={'pattern': 'why statements are not shown: {probes[base][nll][value]}'},
    note='what the reader should know of this section',
  )

Patterns are regular expressions, found anywhere. A statement belongs to the
first claim that matches; those without a claim have a section of their own. The
reasons in `why` are for statements that are not shown or undecided. The fields
of `why` and `note`, in the syntax of `str.format`, are numbers of the pooled
evaluation; a text whose numbers were not measured is left out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import math
import os
import pathlib
import re
import string
from typing import Any

from instructrl.reports import alarms
from instructrl.reports import canvas
from instructrl.reports import formats
from instructrl.reports import pages
from instructrl.reports import paper_checks
from instructrl.reports import pooling
from instructrl.reports import report
from instructrl.reports import reproduction_markdown
from instructrl.reports import study_figures
from instructrl.reports import study_files
from instructrl.reports import study_page
from instructrl.reports import verdicts
from instructrl.reports.canvas import Drawing
from instructrl.reports.policies import ShownPolicies
from instructrl.reports.study_files import Study
from instructrl.reports.verdicts import SHOWN
from instructrl.reports.verdicts import Verdict
from instructrl.runtime import files

FORMAT_VERSION = 1
KEYS = {'title', 'paper'}
OPTIONAL = {'studies', 'parts', 'figures', 'panels', 'why', 'cost', 'note'}
OTHER = {'title': 'Other statements', 'paper': ''}
ABOUT = (
  'A statement is shown if the whole 95% interval is inside the region under '
  '“shown if”, not shown if it is outside, and undecided if it crosses or '
  'touches the border. The region is the direction that the paper finds. '
  'Numbers of several studies are means, and n is the number of items of one '
  'study. Their interval is the wider of two: Student’s t over the studies, '
  'and the bootstrap interval over prompts or questions, which the seeds of a '
  'world share. Intervals of ablations are Student’s t over the seeds, or over '
  'the folds of “reward_folds”, and n is their number. All '
  'points of an ablation have the same questions and start from the same '
  'models, so these intervals do not cover other questions, another '
  'pretraining or another start. No interval is corrected for the number of '
  'statements. A statement about each size has the numbers of the size where '
  'it holds least. In figures of parts faint marks are seeds, and bars are '
  'their standard deviation; hollow marks are the paper’s values, those of '
  '1.3B, 6B and 175B at our three sizes.'
)


@dataclasses.dataclass(frozen=True)
class Evidence:
  """An ablation, or the studies, of a folder of runs.

  Attributes:
    name: of its folder.
    command: that makes it.
    rows: its judged statements.
    runs: what its values are over, such as '3 seeds'.
    figure: (pattern of the titles of panels) -> SVG of these panels, or ''.
  """

  name: str
  command: str
  rows: Sequence[Verdict]
  runs: str
  figure: Callable[[str], str] = lambda pattern: ''


def pool_studies(studies: Sequence[Study]) -> Study:
  """Returns the studies of several worlds and seeds as one.

  It has the numbers, but no curves and no samples.
  """
  return _pooled(studies, len(_by_world(studies)))


def pool_worlds(studies: Sequence[Study]) -> Study:
  """Returns the studies as one; its intervals are Student's t over worlds.

  The value of a world is the mean of its seeds.
  """
  worlds = [_pooled(seeds, math.inf) for seeds in _by_world(studies).values()]
  return _pooled(worlds, math.inf)


def _by_world(studies: Sequence[Study]) -> dict[int, list[Study]]:
  found: dict[int, list[Study]] = {}
  for study in studies:
    found.setdefault(study.header['seeds']['world_seed'], []).append(study)
  return found


def _pooled(studies: Sequence[Study], worlds: float) -> Study:
  """Returns one study; see `pooling.pool`."""
  return dataclasses.replace(
    studies[0],
    done=pooling.pool([study.done for study in studies], worlds),
    metrics={},
    evaluation=pooling.pool([study.evaluation for study in studies], worlds),
    others={},
    samples=[],
    answers=[],
  )


def faults(claims: Sequence[Mapping], parts: Collection[str]) -> list[str]:
  """Returns a message for each mistake in claims.

  Args:
    claims: see the module.
    parts: names of the parts.
  """
  found = []
  for claim in claims:
    keys = {*claim}
    if not KEYS <= keys <= KEYS | OPTIONAL:
      found.append(
        f'claim {claim.get("title")!r}: the keys must be '
        f'{", ".join(sorted(KEYS))}, and may be {", ".join(sorted(OPTIONAL))}; '
        f'got {", ".join(sorted(keys))}'
      )
      continue
    name = f'claim {claim["title"]!r}'
    for key in ('parts', 'panels'):
      found += [
        f'{name}: {key} names {part!r}; the parts are {", ".join(parts)}'
        for part in claim.get(key, {})
        if part not in parts
      ]
    patterns = [claim.get('studies', ''), *claim.get('why', {})]
    for key in ('parts', 'panels'):
      patterns += claim.get(key, {}).values()
    for pattern in patterns:
      try:
        re.compile(pattern)
      except re.error as error:
        found.append(f'{name}: the pattern {pattern!r} is invalid: {error}')
    for text in (claim.get('note', ''), *claim.get('why', {}).values()):
      try:
        [*string.Formatter().parse(text)]
      except ValueError as error:
        found.append(f'{name}: the text {text!r} is invalid: {error}')
  return found


def assign(
  claims: Sequence[Mapping], studies: Evidence | None, parts: Sequence[Evidence]
) -> list[tuple[Mapping, list[tuple[Evidence, Verdict]]]]:
  """Returns each claim with its statements; the last one takes what is left."""
  found = [(claim, []) for claim in (*claims, OTHER)]
  for part in (*([studies] if studies else []), *parts):
    for row in part.rows:
      for claim, rows in found:
        pattern = claim.get('parts', {}).get(part.name)
        text = row.statement
        if part is studies:
          pattern = claim.get('studies')
          text = f'{row.topic}: {row.statement}'
        if claim is OTHER or pattern is not None and re.search(pattern, text):
          rows.append((part, row))
          break
  return found


def why(row: Verdict, claim: Mapping, numbers: Mapping) -> str:
  """Returns why a statement is not shown, as far as a measurement says so.

  Args:
    row: the statement.
    claim: the claim that it belongs to.
    numbers: the pooled evaluation, for the fields of the claim's reasons.
  """
  if row.verdict == SHOWN:
    return ''
  if row.note:
    return row.note
  if row.verdict == verdicts.NOT_MEASURED:
    return 'no finished run has this number'
  if row.ci95 is None:
    return 'a single run has no interval'
  reasons = [
    text
    for pattern, reason in claim.get('why', {}).items()
    if re.search(pattern, row.statement) and (text := _filled(reason, numbers))
  ]
  if row.verdict == verdicts.UNDECIDED:
    scale, digits = formats.UNITS[row.unit]
    half = scale * (row.ci95[1] - row.ci95[0]) / 2
    near = min(abs(row.value - edge) for edge in row.region)
    ends = formats.fixed(half, digits), formats.fixed(scale * near, digits)
    reasons.insert(
      0, f'the interval is ± {ends[0]}, and the border is {ends[1]} away'
    )
  return '; '.join(reasons[:2]) or 'the reason is unknown'


def _filled(reason: str, numbers: Mapping) -> str:
  """Returns a reason with its numbers; '' if one of them is not there."""
  try:
    return reason.format_map(numbers)
  except (KeyError, TypeError):  # no such number, or it is undefined: None
    return ''


def write(
  folder: str | os.PathLike,
  title: str,
  command: str,
  claims: Sequence[Mapping],
  studies: Sequence[str | os.PathLike],
  source: Evidence | None,
  parts: Sequence[Evidence],
  about: Sequence[str] = (),
) -> pathlib.Path:
  """Writes index.html, results.json, paper.md and figures/ into a folder.

  Args:
    folder: made if needed.
    title: of the page.
    command: that runs all of it.
    claims: see the module.
    studies: the folders of finished studies.
    source: where the studies come from; its rows are made here.
    parts: the ablations, with the results that they have so far.
    about: paragraphs at the top: what was run, and how it differs from the
      paper.

  Returns:
    The path of the page.

  Raises:
    ValueError: a study is not finished, or a file of it is damaged.
  """
  folder = pathlib.Path(folder)
  (folder / 'figures').mkdir(parents=True, exist_ok=True)
  loaded = [(pathlib.Path(p).name, study_files.load(p)) for p in studies]
  pooled = pool_studies([study for _, study in loaded]) if loaded else None
  policies = pooled.policies if pooled else ShownPolicies()
  numbers = pooled.evaluation if pooled else {}
  whole, unsure = None, []
  results: dict[str, Any] = {}
  figures: dict[str, Drawing | None] = {}
  if pooled and source:
    whole = dataclasses.replace(source, rows=report.check(pooled))
    results = report.build_results(pooled, whole.rows)
    figures = study_figures.draw(pooled, results)
    if 1 < len(_by_world([study for _, study in loaded])) < len(loaded):
      by_world = report.check(pool_worlds([study for _, study in loaded]))
      unsure = _weaker(whole.rows, by_world)
  sections = [
    _section(
      number, claim, rows, whole, figures, parts, results, policies, numbers
    )
    for number, (claim, rows) in enumerate(assign(claims, whole, parts), 1)
    if rows or claim is not OTHER
  ]
  rows = [row for section in sections for row in section['verdicts']]
  contents = {
    'title': title,
    'about': [*about, ABOUT, *unsure],
    'command': command,
    # A pooled study has no curves and samples, which most alarms look at.
    'alarms': alarms.of_studies(loaded),
    'headline': f'{_measured(sections[: len(claims)])}. Of '
    f'{sum(row.of_paper for row in rows)} statements of the paper: '
    f'{study_page.summary(rows)}',
    'sections': sections,
  }
  _write_figures(folder / 'figures', sections)
  files.write_json(folder / 'results.json', _json(contents, numbers))
  files.atomic_write(folder / 'paper.md', reproduction_markdown.page(contents))
  page = pages.render('reproduction', **contents)
  files.atomic_write(folder / 'index.html', page)
  return folder / 'index.html'


def _weaker(rows: Sequence[Verdict], by_world: Sequence[Verdict]) -> list[str]:
  """Returns a sentence on the statements that depend on what is repeated.

  Args:
    rows: judged with each study as a repetition.
    by_world: the same statements, with each world as a repetition.
  """
  shown = [
    (a, b)
    for a, b in zip(rows, by_world, strict=True)
    if a.verdict == SHOWN and a.of_paper
  ]
  lost = [a.statement for a, b in shown if b.verdict != SHOWN]
  return [
    f'Of the {len(shown)} statements of the paper that the studies show, '
    f'{len(shown) - len(lost)} are shown too if each world is one repetition, '
    'with the mean of its seeds (Student’s t over worlds). '
    + (f'The others would be undecided: {"; ".join(lost)}.' if lost else '')
  ]


def _measured(sections: Sequence[Mapping]) -> str:
  """Returns '12 of 16 claims are measured, 3 in part, 1 has no verdict'."""
  counts = [
    sum(section['measured'] == how for section in sections)
    for how in ('whole', 'part')
  ]
  part = f', {counts[1]} in part' if counts[1] else ''
  tables_only = sum(not s['checks'] and bool(s['tables']) for s in sections)
  part += f', {tables_only} has no verdict' if tables_only else ''
  return f'{counts[0]} of {len(sections)} claims are measured{part}'


def _section(
  number, claim, rows, studies, figures, parts, results, policies, numbers
) -> dict:
  """Returns what the page shows of a claim."""
  named = [
    (f'{number:02d}_{name}', pages.words(name), figures[name])
    for name in claim.get('figures', ())
    if figures.get(name)
  ]
  ablations = (p.name for p, _ in rows if p is not studies)
  names = dict.fromkeys((*claim.get('parts', {}), *ablations))
  used = [part for name in names for part in parts if part.name == name]
  panels = claim.get('panels', {})
  drawn = [(part.name, part.figure(panels.get(part.name, ''))) for part in used]
  named += [
    (f'{number:02d}_{name}', pages.words(name), Drawing([svg], wide=True))
    for name, svg in drawn
    if svg
  ]
  # A study has one size; the part `sizes` measures this statement.
  sizes = [pair for pair in rows if pair[1].quantity == paper_checks.SIZES]
  rows = [pair for pair in rows if pair not in sizes] or sizes
  costs = versus = tax = None
  if claim.get('cost'):
    costs = study_page.cost_table(results.get('cost', {}), policies)
  if 'head_to_head' in claim.get('figures', ()):
    versus = study_page.head_to_head(results.get('head_to_head', {}), policies)
  if 'alignment_tax' in claim.get('figures', ()):
    tax = study_page.tax(numbers, policies)
  checks = [
    study_page.shown_row(row, policies)
    | {
      'note': why(row, claim, numbers),
      'part': part.name,
      'runs': part.runs,
      'id': f'finding{number}-{i}',
    }
    for i, (part, row) in enumerate(rows, 1)
  ]
  found = [row for _, row in rows]
  shown = [table for table in (versus, costs, tax) if table]
  without = 'a table, without statements' if shown else 'not measured'
  have = [row.verdict != verdicts.NOT_MEASURED for row in found]
  return {
    'title': claim['title'],
    'paper': claim['paper'],
    'note': _filled(claim.get('note', ''), numbers),
    'measured': 'whole' if have and all(have) else 'part' if any(have) else '',
    'summary': study_page.summary(found) or without,
    'checks': checks,
    'verdicts': found,
    'figures': named,
    'tables': shown,
    'commands': {
      part.name: part.command for part in (*(p for p, _ in rows), *used)
    },
  }


def _write_figures(folder: pathlib.Path, sections) -> None:
  for path in folder.glob('*.svg'):  # of a claim or part that is gone
    path.unlink()
  for section in sections:
    for name, _, drawing in section['figures']:
      svg = canvas.standalone(canvas.joined(drawing))
      files.atomic_write(folder / f'{name}.svg', svg)


def _json(contents: Mapping, numbers: Mapping) -> dict:
  """Returns the content of results.json."""
  return {
    'format_version': FORMAT_VERSION,
    'headline': contents['headline'],
    'alarms': [dataclasses.asdict(alarm) for alarm in contents['alarms']],
    'claims': [
      {
        'title': section['title'],
        'paper': section['paper'],
        'summary': section['summary'],
        'statements': [
          {
            **verdicts.to_json(row),
            'why': check['note'],
            'part': check['part'],
            'runs': check['runs'],
          }
          for row, check in zip(section['verdicts'], section['checks'])
        ],
      }
      for section in contents['sections']
    ],
    'pooled': numbers,
  }
