r"""Studies of three worlds with three train seeds each.

python -m instructrl.sweep --config=experiments/worlds.py:tiny --workdir=DIR

A point is a whole study: lab, all models, and an evaluation of all policies.
Its report, with a verdict on each finding of the paper, is
DIR/worlds/POINT/report/index.html. The seed is that of every stage that trains.
The stages of world 0 and seed 0 are those that the ablations start from. At
`tiny` an evaluation has three to four times the questions that the experiment
`study` has.

Result at `tiny`: in all three worlds base < prompted < SFT; against SFT PPO
wins 53.4% [51.7, 55.0] and PPO-ptx 54.4% [52.6, 56.3]. Of 75 statements of the
paper 51 are shown, 6 not shown, 17 undecided (docs/results.md). Two cores of an
AMD EPYC server CPU, two runs at a time: 23 minutes a study and run, 207 minutes
of one core in all.
"""

from experiments.ablations import base

FIELD = 'world_seed'
WORLDS = {'micro': (0,)}
POLICIES = ('base', 'prompted', 'ppo_init', 'ppo', 'ppo_ptx')


def get_config(arg='tiny'):
  found = ('evaluation', 'results.json')
  judged = 'evals.preference.results.preference'
  tax = 'evals.probes.results.probes'
  c = base.get_config(
    arg,
    ('evaluation',),
    (
      *(
        (f'{policy}: {base.WIN_RATE}', *found, f'{judged}.{policy}.win_rate')
        for policy in POLICIES
      ),
      *(
        (f'{policy}: {title}', *found, f'{tax}.{policy}.{place}.value')
        for title, place in base.TASKS
        for policy in ('base', 'sft', 'ppo_init', 'ppo', 'ppo_ptx')
      ),
    ),
  )
  # The lab follows from the world, and an evaluation from eval_seed.
  c.seeded = tuple(s for s in c.stages if s not in ('lab', 'evaluation', 'dpo'))
  base.ask_more(c)
  c.plot.x = FIELD
  c.studies = True
  return c


def sweep(add, config):
  for world_seed in WORLDS.get(config.size, (0, 1, 2)):
    add({FIELD: world_seed})
