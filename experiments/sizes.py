r"""Policies of three sizes with one reward model (Fig. 1, 3, 28, 29, 31).

python -m instructrl.sweep --config=experiments/sizes.py:tiny --workdir=DIR

The sizes differ in width: 64, 128 and 256 are 0.2M, 0.9M and 3.4M parameters.
Lab, tokenizer, rankings, reward model and value model are the same for all
policies, as in the paper (C.2); the rankings' answers are of the models of the
reward model's size, 0.9M. Every policy is compared with the largest SFT. All
sizes have the recipe of 0.9M, whose learning rates were tuned for that size.
"""

from experiments import pretrain
from experiments import select_sft
from experiments import sft
from experiments.ablations import base

FIELD = 'pretrain.model.d_model'
WIDTHS = {'micro': (32, 64), 'tiny': (64, 128, 256), 'small': (160, 320, 640)}
POLICIES = ('base', 'prompted', 'sft', 'ppo_init', 'ppo', 'ppo_ptx')
ALIKE = (-0.05, 0.05)  # as in a study: a policy that wins 45 to 55%
LARGEST = 'largest_sft'
FIG_1 = 'at every size (Fig. 1)'
PARAMETERS = 'parameters'


def wins(policy):
  return task(policy, 'win rate against the largest SFT')


def likert(policy):
  return task(policy, base.LIKERT)


def task(policy, title):
  """Returns the title of a measure; the figure has a line for each policy."""
  return f'{policy}: {title}'


def get_config(arg='tiny'):
  found = ('evaluation', 'results.json')
  judged = 'evals.preference.results'
  tax = 'evals.probes.results.probes'
  c = base.get_config(
    arg,
    ('evaluation', 'ppo_ptx'),
    (
      (PARAMETERS, 'ppo_ptx', 'DONE', 'result.num_params'),
      *(
        (wins(p), *found, f'{judged}.preference.{p}.win_rate') for p in POLICIES
      ),
      *((likert(p), *found, f'{judged}.likert.{p}.value') for p in POLICIES),
      *(
        (task(p, title), *found, f'{tax}.{p}.{place}.value')
        for title, place in base.TASKS
        for p in POLICIES
        if p != 'prompted'  # the pretrained model, asked in the same way
      ),
    ),
  )
  stages, widths = c.stages, WIDTHS[arg]
  width = stages.pretrain.model.get_oneway_ref('d_model')
  for name in ('sft', 'ppo_init', 'nlp', 'ppo', 'ppo_ptx'):
    stages[name].model.d_model = width
  for name in ('reward', 'largest'):
    stages[f'{name}_pretrain'] = pretrain.get_config(arg)
    stages[f'{name}_sft'] = sft.get_config(arg)
    stages[f'{name}_sft'].inputs.init = f'../{name}_pretrain'
  stages.largest_select = select_sft.get_config(arg)
  stages.largest_select.inputs.sft = '../largest_sft'
  for name in ('largest_pretrain', 'largest_sft'):
    stages[name].model.d_model = widths[-1]
  stages.rankings.inputs.update(
    base='../reward_pretrain', sft='../reward_sft', early_sft='../reward_sft'
  )
  stages.reward.inputs.init = '../reward_sft'
  stages.evaluation.policies[LARGEST] = '../largest_select'
  for name in ('preference', 'gpt3_prompts'):
    stages.evaluation.evals[name].reference = LARGEST
  stages.evaluation.evals.generalization.type = ''
  for name in stages:
    c.given[name] = ''
  # The lab follows from the world, and an evaluation from eval_seed.
  c.seeded = tuple(s for s in stages if s not in ('lab', 'evaluation', 'dpo'))
  c.plot.x, c.plot.at, c.plot.lines = FIELD, PARAMETERS, True
  c.plot.label, c.plot.log = 'parameters of the policy', True
  c.expected = (
    _headline(widths, 'base', 'the largest pretrained model'),
    _headline(widths, 'prompted', 'the largest prompted model'),
    *_order(),
    *_tax(),
  )
  return c


def _headline(widths, other, name):
  """Returns the claim of a small PPO-ptx model against a large GPT model."""
  return dict(
    statement=f'The smallest PPO-ptx is preferred more often than {name}',
    paper='1.3B PPO-ptx above 175B GPT-3, against the 175B SFT (Fig. 1)',
    measure=wins('ppo_ptx'),
    terms=(
      (1, {FIELD: widths[0]}),
      (-1, {FIELD: widths[-1]}, 'mean', wins(other)),
    ),
    region='positive',
    unit='%',
    ratio=PARAMETERS,
  )


def _order():
  """Returns the order of policies at each size, and whether Likert agrees."""
  at = dict(terms=((1, {}),), each=FIELD, paper=FIG_1)
  for better, worse in (
    ('prompted', 'base'),
    ('sft', 'prompted'),
    ('ppo', 'sft'),
  ):
    yield dict(
      statement=f'{better} wins more often than {worse} at each size',
      measure=wins(better),
      less=wins(worse),
      region='positive',
      unit='%',
      **at,
    )
    yield dict(
      statement=f'{better} is rated higher than {worse} at each size',
      measure=likert(better),
      less=likert(worse),
      region='positive',
      **(at | dict(paper='at every size (Fig. 31)')),
    )
  yield dict(
    statement='ppo_ptx wins as often as ppo at each size',
    measure=wins('ppo_ptx'),
    less=wins('ppo'),
    region=ALIKE,
    unit='%',
    **at,
  )


def _tax():
  """Returns the alignment tax at each size (Table 14, few-shot; Fig. 29)."""
  for title, _ in base.TASKS:
    for left, right, region in (
      ('ppo', 'base', 'negative'),
      ('ppo_ptx', 'ppo', 'positive'),
    ):
      yield dict(
        statement=f'{title.split(":")[0]}: {left} is '
        f'{"below" if region == "negative" else "above"} {right} at each size',
        paper='at every size (Fig. 29)',
        measure=task(left, title),
        less=task(right, title),
        terms=((1, {}),),
        each=FIELD,
        region=region,
      )


def sweep(add, config):
  for width in WIDTHS[config.size]:
    add({FIELD: width})
