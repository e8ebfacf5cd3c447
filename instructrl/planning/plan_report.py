"""Renders plans as tables, and as a page to attach to a TPU quota request."""

from collections.abc import Mapping, Sequence

from instructrl.planning.chips import GIB
from instructrl.planning.planner import Function
from instructrl.planning.planner import Plan
from instructrl.reports import pages
from instructrl.reports import plots
from instructrl.reports import tables

Table = list[tuple[str, ...]]  # the first row is the header

FUNCTIONS = (
  'per chip|arguments|outputs|temporary|peak GiB|TFLOP model|XLA|GB of HBM|'
  'GB sent|roofline|bound|MFU, at most'
)
SUMMARY = (
  'run|slice|chips|data x fsdp x tensor|GiB a chip|step, at least|bound|'
  'MFU, at most|chip-hours'
)
SCALING = (
  'slice|chips|data x fsdp x tensor|step, at least|ideal|efficiency|'
  'communication alone'
)
BOUNDS = {'compute': 'arithmetic', 'hbm': 'HBM', 'ici': 'communication'}
FEWEST_FOR_SCALING = 3  # slices


def markdown(table: Table) -> str:
  return tables.markdown(table[0], table[1:])


def aligned(table: Table) -> str:
  """Returns a table as aligned columns for a terminal."""
  widths = [max(map(len, column)) for column in zip(*table)]
  return '\n'.join(
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
    for row in table
  )


def _gib(amount: float) -> str:
  return f'{amount / GIB:.2f}'


def _time(seconds: float) -> str:
  return f'{seconds:.3g} s'


def _mesh(p: Plan) -> str:
  return ' x '.join(str(size) for size in p.mesh.values())


def _sent(f: Function) -> str:
  """Returns the GB sent by each kind of collective, the largest first."""
  found = sorted(f.collectives.items(), key=lambda item: -item[1])
  return ', '.join(f'{kind} {sent / 1e9:.3g}' for kind, sent in found) or '0'


def functions(p: Plan) -> Table:
  """Returns a row per function with figures per chip."""
  table = [tuple(FUNCTIONS.split('|'))]
  for f in p.functions:
    sizes = map(_gib, (f.arguments, f.outputs, f.temporaries, f.peak))
    counted = (f'{count / 1e12:.3g}' for count in (f.model_flops, f.xla_flops))
    mfu = f'{100 * f.model_flops / (f.seconds * p.peak_flops):.0f}%'
    moved = f'{f.hbm_traffic / 1e9:.4g}', _sent(f)
    slowest = _time(f.seconds), BOUNDS[f.bound]
    table.append((f.name, *sizes, *counted, *moved, *slowest, mfu))
  return table


def heading(p: Plan) -> str:
  shape = ' x '.join(f'{k} {v}' for k, v in p.mesh.items())
  given = ''.join(f', with --config.{k}={v}' for k, v in p.given.items())
  return (
    f'{p.name} on {p.topology}: {p.chips} chips, {shape}, '
    f'{p.hbm / GIB:.4g} GiB a chip{given}'
  )


def verdict(p: Plan) -> str:
  """Returns a sentence: why a plan does not fit, or its time and MFU."""
  if not p.fits:
    return f'does not fit: {p.problem}'
  text = (
    f'a step takes at least {_time(p.seconds)}; model FLOPs utilisation '
    f'of at most {100 * p.mfu:.0f}%'
  )
  if p.steps:
    text += f'; {p.steps:,} steps are {p.chip_hours:,.0f} chip-hours'
  return text


def describe(p: Plan) -> str:
  """Returns a plan as text for a terminal."""
  tables = [aligned(functions(p))] if p.functions else []
  return '\n'.join([heading(p), *tables, verdict(p)])


def summary(plans: Sequence[Plan]) -> Table:
  """Returns a row per run and slice."""
  table = [tuple(SUMMARY.split('|'))]
  for p in plans:
    size = f'{_gib(p.peak)} of {p.hbm / GIB:.4g}'
    row = (p.name, p.topology, str(p.chips), _mesh(p))
    if not p.fits:
      over = size if max(p.peak, p.stays) > p.hbm else f'over {p.hbm / GIB:.4g}'
      table.append((*row, over, 'does not fit', '', '', ''))
      continue
    slowest = max(p.functions, key=lambda f: f.seconds)
    bound = BOUNDS[slowest.bound]
    bound += f' ({slowest.name})' if len(p.functions) > 1 else ''
    hours = f'{p.chip_hours:,.0f}' if p.steps else 'depends on data'
    mfu = f'{100 * p.mfu:.0f}%'
    table.append((*row, size, _time(p.seconds), bound, mfu, hours))
  return table


def by_run(plans: Sequence[Plan]) -> dict[str, list[Plan]]:
  """Returns {run and kind of chip: its plans, fewest chips first}."""
  found = {}
  for p in sorted(plans, key=lambda p: p.chips):
    found.setdefault(f'{p.name}, {p.topology.partition(":")[0]}', []).append(p)
  return dict(sorted(found.items()))


def smallest(plans: Sequence[Plan]) -> list[str]:
  """Returns a line per run and kind of chip: the smallest slice that fits."""
  lines = []
  for name, found in by_run(plans).items():
    line = f'no slice fits of {", ".join(p.topology for p in found)}'
    for p in [p for p in found if p.fits][:1]:
      line = f'{p.topology} ({p.chips} chips) is the smallest of '
      line += f'{len(found)} slices that fits'
    lines.append(f'{name}: {line}')
  return lines


def growing(plans: Sequence[Plan]) -> dict[str, list[Plan]]:
  """Returns {run: plans that fit}, for runs with enough to show scaling."""
  found = by_run([p for p in plans if p.fits])
  enough = lambda ps: len({p.chips for p in ps}) >= FEWEST_FOR_SCALING
  return {name: ps for name, ps in found.items() if enough(ps)}


def scaling(plans: Sequence[Plan]) -> Table:
  """Returns a table of one run on more and more chips, with the same batch.

  The ideal time scales that of the smallest slice by the number of chips. The
  efficiency is the ideal time divided by the time.
  """
  first = plans[0]
  head = SCALING.split('|')
  for f in first.functions:
    head += [f'{f.name}: time', f'{f.name}: bound']
  table = [tuple(head)]
  for p in plans:
    ideal = first.seconds * first.chips / p.chips
    row = [p.topology, str(p.chips), _mesh(p), _time(p.seconds), _time(ideal)]
    row += [f'{100 * ideal / p.seconds:.0f}%', f'{100 * p.communication:.0f}%']
    for f in p.functions:
      row += [_time(f.seconds), BOUNDS[f.bound]]
    table.append(tuple(row))
  return table


def _figure(plans: Sequence[Plan]) -> str:
  first, chips = plans[0], [p.chips for p in plans]
  times = {'a step': [p.seconds for p in plans]}
  shares = {'a step': [p.communication for p in plans]}
  for i, f in enumerate(first.functions if len(first.functions) > 1 else ()):
    found = [p.functions[i] for p in plans]
    times[f.name] = [f.seconds for f in found]
    shares[f.name] = [f.times['ici'] / f.seconds for f in found]
  ideal = [first.seconds * first.chips / n for n in chips]
  return plots.scaling(chips, times, ideal, shares)


def render(plans: Sequence[Plan], versions: Mapping[str, str]) -> str:
  """Returns the HTML page: what fits, how it scales, and every function."""
  return pages.render(
    'plans',
    versions=[f'{name} {version}' for name, version in versions.items()],
    smallest=smallest(plans),
    summary=summary(plans),
    scaling=[(n, _figure(ps), scaling(ps)) for n, ps in growing(plans).items()],
    plans=[
      (heading(p), p.functions and functions(p), verdict(p)) for p in plans
    ],
  )
