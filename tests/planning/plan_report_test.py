"""Tables and the page of invented plans."""

import dataclasses

import pytest

from instructrl.planning import plan_report
from instructrl.planning import planner

GIB = 2**30


def make(
  topology,
  chips,
  *,
  compute=8.0,
  ici=1.0,
  problem='',
  name='ppo:1.3b',
  **fields,
):
  """Returns a plan with two functions, split over the chips."""
  function = lambda name, share: planner.Function(
    name=name,
    arguments=GIB,
    outputs=GIB,
    temporaries=2 * GIB,
    code=0,
    aliased=0,
    xla_flops=3e12,
    hbm_traffic=5e9,
    collectives={'all-reduce': 2e9, 'all-gather': 7e9},
    compile_seconds=1.0,
    peak=6 * GIB,
    model_flops=2e12,
    times={'compute': share * compute / chips, 'hbm': 0.01, 'ici': share * ici},
  )
  return planner.Plan(
    **{
      **dict(
        name=name,
        topology=topology,
        chips=chips,
        mesh=dict(data=1, fsdp=chips, tensor=1),
        given={},
        hbm=16 * GIB,
        peak_flops=1e12,
        stays=3 * GIB,
        steps=3600,
        problem=problem,
        functions=(function('generate', 1), function('update', 3)),
      ),
      **fields,
    }
  )


GROWING = [make('v5e:2x2', 4), make('v5e:2x4', 8), make('v5e:4x4', 16)]
TOO_SMALL = make(
  'v5e:1x1',
  1,
  problem='what stays on a chip takes 20 GiB',
  functions=(),
  stays=20 * GIB,
)


def test_the_summary_has_a_row_for_each_run_and_slice():
  head, small, fits = plan_report.summary([TOO_SMALL, GROWING[0]])
  assert dict(zip(head, fits)) == {
    'run': 'ppo:1.3b',
    'slice': 'v5e:2x2',
    'chips': '4',
    'data x fsdp x tensor': '1 x 4 x 1',
    'GiB a chip': '6.00 of 16',
    # 2 + 6 s per chip; 4e12 of 8e12 FLOPs; 3,600 steps of 8 s.
    'step, at least': '8 s',
    'bound': 'arithmetic (update)',
    'MFU, at most': '50%',
    'chip-hours': '32',
  }
  assert small[4:6] == ('20.00 of 16', 'does not fit')


def test_where_xla_found_no_room_the_peak_is_not_known():
  p = dataclasses.replace(TOO_SMALL, stays=3 * GIB, problem='generate')
  assert plan_report.summary([p])[1][4] == 'over 16'


def test_the_smallest_that_fits_is_named_for_each_chip():
  assert plan_report.smallest(
    [
      *reversed(GROWING),
      TOO_SMALL,
      make('v5p:2x2x1', 4),
      make('v4:2x2x1', 4, problem='no'),
    ]
  ) == [
    'ppo:1.3b, v4: no slice fits of v4:2x2x1',
    'ppo:1.3b, v5e: v5e:2x2 (4 chips) is the smallest of 4 slices that fits',
    'ppo:1.3b, v5p: v5p:2x2x1 (4 chips) is the smallest of 1 slices that fits',
  ]


def test_scaling_is_told_against_the_smallest():
  found = plan_report.growing([TOO_SMALL, *GROWING])
  assert found == {'ppo:1.3b, v5e': GROWING}
  assert not plan_report.growing(GROWING[:2])
  head, *rows = plan_report.scaling(GROWING)
  column = lambda name: [row[head.index(name)] for row in rows]
  assert column('step, at least') == ['8 s', '4 s', '4 s']
  assert column('ideal') == ['8 s', '4 s', '2 s']
  assert column('efficiency') == ['100%', '100%', '50%']
  assert column('communication alone') == ['50%', '100%', '100%']
  assert column('update: bound') == [
    'arithmetic',
    'arithmetic',
    'communication',
  ]


def test_a_plan_is_told_with_the_fields_that_were_set_for_it():
  text = plan_report.describe(
    dataclasses.replace(GROWING[0], given={'mesh.tensor': 2})
  )
  assert (
    'ppo:1.3b on v5e:2x2: 4 chips, data 1 x fsdp 4 x tensor 1, 16 GiB a '
    'chip, with --config.mesh.tensor=2'
  ) in text
  assert 'all-gather 7, all-reduce 2' in text
  assert (
    'a step takes at least 8 s; model FLOPs utilisation of at most 50%; '
    '3,600 steps are 32 chip-hours'
  ) in text
  assert 'does not fit: what stays' in plan_report.describe(TOO_SMALL)


@pytest.mark.parametrize(
  'plans, figures', [([TOO_SMALL, *GROWING], 1), ([TOO_SMALL], 0)]
)
def test_the_page_has_every_plan_and_figure(plans, figures):
  text = plan_report.render(plans, {'libtpu': '1'})
  assert text.count('<svg') == figures
  assert text.count('<h3>') == len(plans)
  for p in plans:
    assert plan_report.heading(p) in text
