r"""Policies of three sizes with one reward model (Fig. 1, 3, 28 to 32).

python -m instructrl.sweep --config=experiments/sizes.py:tiny --workdir=DIR

The sizes differ in width: 64, 128 and 256 are 0.26M, 0.91M and 3.4M parameters.
Lab, tokenizer, rankings, reward model and value model are the same for all
policies, as in the paper (C.2); the rankings' answers are of the models of the
reward model's size, 0.91M. Every policy is compared with the largest SFT.
Hollow marks of the figure are the paper's values of 1.3B, 6B and 175B.

Result of `tiny`, three seeds: the smallest PPO-ptx wins 45.0% against the
largest SFT, the largest pretrained model 9.0% and the largest prompted one
28.8%, with 13 times the parameters: shown, the differences are 36.1 points (95%
interval 25.1 to 47.0) and 16.2 (2.3 to 30.2). By size, SFT wins 39.8, 47.7 and
48.8%, PPO 44.5, 51.4 and 52.0% and PPO-ptx 45.0, 53.4 and 53.9%. That PPO wins
more often than SFT at each size is undecided: with three seeds the intervals
are up to +-6 points wide. On one core of an AMD EPYC server CPU, beside another
run, the largest model takes 11 minutes of pretraining, 4 of SFT, and up to 8 of
PPO-ptx; an evaluation takes 6 to 21.
"""

from experiments import pretrain
from experiments import select_sft
from experiments import sft
from experiments.ablations import base
from instructrl.reports import paper_values
from instructrl.stages import policy_settings

FIELD = 'pretrain.model.d_model'
WIDTHS = {'micro': (32, 64), 'tiny': (64, 128, 256), 'small': (160, 320, 640)}
RATE = 'pretrain.optimizer.peak_lr'
# Size -> width -> peak learning rate of pretraining, where it is not the
# recipe's. They have the lowest validation loss among factors of two in a world
# and with a seed that are not reported (both 9): 0.726 at 64, 0.662 at 128,
# 0.648 at 256, in nats. Twice the recipe's rates of SFT and PPO-ptx at 64, and
# half of them at 256, change the reward-model score there by at most 0.03, less
# than its interval of +-0.06: all widths have the recipe's.
RATES = {'tiny': {64: 1.2e-2, 256: 7.5e-4}}
POLICIES = {  # labels and colours, as in the report of a study
  name: policy_settings.kind(name)
  for name in ('base', 'prompted', 'sft', 'ppo_init', 'ppo', 'ppo_ptx')
}
ALIKE = (-0.05, 0.05)  # as in a study: a policy that wins 45 to 55%
LARGEST = 'largest_sft'
PARAMETERS = 'parameters'
# Titles of measures.
WINS = 'win rate against the largest SFT'
HELD_OUT = 'win rate, held-out labelers'
GPT3 = 'win rate on GPT-3 prompts, training labelers'
LIKERT = 'Likert, training labelers'
FAILS = 'does not follow the instruction'
KEEPS = 'keeps constraints'
INVENTS = 'invents (closed domain)'
TRUE = 'true and informative (QA prompt)'
RUDE = 'rude, asked to be biased'
ENTROPY = 'entropy of bias, bits, no instruction'
TASKS = (
  *base.TASKS,
  ('accuracy of entailment (RTE)', 'entailment.accuracy'),
  ('accuracy of sentiment (SST)', 'sentiment.accuracy'),
  ('ROUGE-L of summaries (Reddit)', 'summary.rouge_l'),
)
# Places of the tasks that have examples, which can be left out.
ZERO_SHOT = {place for _, place in TASKS if 'completion' not in place}


def _probe(title, place, zero_shot=False):
  """Returns a panel of a measure on probes, and the paper's values."""
  form, paper = 'probes', paper_values.PROBES
  if zero_shot:
    title = f'{title}, zero-shot'
    form, paper = 'probes_zero_shot', paper_values.ZERO_SHOT
  values = paper.get(place.replace('.', '/'), {})
  return title, 'probes', f'{form}.{{}}.{place}.value', values


# Panels of the figure: title, evaluation, place of a policy's number, and the
# paper's values of the three sizes.
PANELS = (
  # Fig. 1, whose labelers are the training labelers.
  (
    WINS,
    'preference',
    'preference.{}.win_rate',
    paper_values.WIN_RATES['train_labelers'],
  ),
  # Fig. 3 and 31.
  *(
    (title, name, f'preference.{{}}.{group}.win_rate', values[group])
    for title, name, group, values in (
      (
        'win rate, training labelers',
        'preference',
        'train_labelers',
        paper_values.WIN_RATES,
      ),
      (HELD_OUT, 'preference', 'heldout_labelers', paper_values.WIN_RATES),
      (GPT3, 'gpt3_prompts', 'train_labelers', paper_values.GPT3_WIN_RATES),
      (
        'win rate on GPT-3 prompts, held-out labelers',
        'gpt3_prompts',
        'heldout_labelers',
        paper_values.GPT3_WIN_RATES,
      ),
    )
  ),
  *(
    (title, name, f'likert.{{}}.{group}.value', values)
    for title, name, group, values in (
      (LIKERT, 'preference', 'train_labelers', paper_values.LIKERT),
      ('Likert, held-out labelers', 'preference', 'heldout_labelers', {}),
      (
        'Likert on GPT-3 prompts, training labelers',
        'gpt3_prompts',
        'train_labelers',
        {},
      ),
      (
        'Likert on GPT-3 prompts, held-out labelers',
        'gpt3_prompts',
        'heldout_labelers',
        {},
      ),
    )
  ),
  # Fig. 30. The paper's text has the numbers of inventions only.
  *(
    (title, 'preference', f'metadata.{{}}.{flag}.value', values)
    for title, flag, values in (
      (FAILS, 'fails_to_follow_instruction', {}),
      (KEEPS, 'satisfies_constraint', {}),
      (INVENTS, 'hallucination', paper_values.HALLUCINATION),
      ('inappropriate', 'inappropriate_for_customer_assistant', {}),
    )
  ),
  # Fig. 29 and 28, 6, Table 14, Fig. 32.
  *(_probe(*task) for task in TASKS),
  *(_probe(*task, zero_shot=True) for task in TASKS if task[1] in ZERO_SHOT),
  _probe(TRUE, 'truthfulness.true_informative'),
  _probe('rude, no instruction', 'toxicity.none.rude_rate'),
  _probe('rude, asked to be respectful', 'toxicity.respectful.rude_rate'),
  _probe(RUDE, 'toxicity.biased.rude_rate'),
  _probe(ENTROPY, 'bias.none.entropy'),
  _probe(
    'entropy of bias, bits, asked to be respectful', 'bias.respectful.entropy'
  ),
  _probe('entropy of bias, bits, asked to be biased', 'bias.biased.entropy'),
)


def of(policy, title):
  """Returns the title of a measure; the figure has a line for each policy."""
  return f'{POLICIES[policy].label}: {title}'


def get_config(arg='tiny'):
  drawn = [
    (policy, *panel)
    for panel in PANELS
    for policy in POLICIES
    # On probes the prompted policy is the pretrained model.
    if policy != 'prompted' or panel[1] != 'probes'
  ]
  c = base.get_config(
    arg,
    ('evaluation', 'ppo_ptx'),
    (
      (PARAMETERS, 'ppo_ptx', 'DONE', 'result.num_params'),
      *(
        (
          of(policy, title),
          'evaluation',
          'results.json',
          f'evals.{name}.results.{place.format(policy)}',
        )
        for policy, title, name, place, _ in drawn
      ),
    ),
  )
  stages, widths = c.stages, WIDTHS[arg]
  width = stages.pretrain.model.get_oneway_ref('d_model')
  for name in ('sft', 'ppo_init', 'ppo', 'ppo_ptx'):
    stages[name].model.d_model = width
  for name in ('reward', 'largest'):
    stages[f'{name}_pretrain'] = pretrain.get_config(arg)
    stages[f'{name}_sft'] = sft.get_config(arg)
    stages[f'{name}_sft'].inputs.init = f'../{name}_pretrain'
  stages.largest_select = select_sft.get_config(arg)
  stages.largest_select.inputs.sft = '../largest_sft'
  for name in ('largest_pretrain', 'largest_sft'):
    stages[name].model.d_model = widths[-1]
  rates = RATES.get(arg, {})
  largest = stages.largest_pretrain.optimizer
  largest.peak_lr = rates.get(widths[-1], largest.peak_lr)
  stages.rankings.inputs.update(
    base='../reward_pretrain', sft='../reward_sft', early_sft='../reward_sft'
  )
  stages.reward.inputs.init = '../reward_sft'
  stages.evaluation.policies.update(
    {LARGEST: '../largest_select', 'nlp': ''}  # no model of public tasks
  )
  evals = stages.evaluation.evals
  for name in ('preference', 'gpt3_prompts'):
    evals[name].reference = LARGEST
  base.ask_more(c)
  evals.generalization.type = ''
  evals.probes.type = 'zero_shot'
  for name in stages:
    c.given[name] = ''
  # The lab follows from the world, and an evaluation from eval_seed.
  c.seeded = tuple(s for s in stages if s not in ('lab', 'evaluation', 'dpo'))
  c.plot.x, c.plot.at, c.plot.lines = FIELD, PARAMETERS, True
  c.plot.label, c.plot.log = 'parameters of the policy', True
  c.plot.colors = {kind.label: kind.color for kind in POLICIES.values()}
  c.paper = tuple(
    (of(policy, title), width, number)
    for policy, title, *_, values in drawn
    for width, number in zip(widths, values.get(policy, ()))
    if len(widths) == len(values[policy])
  )
  c.expected = (
    _headline(widths, 'base', 'the largest pretrained model'),
    _headline(widths, 'prompted', 'the largest prompted model'),
    *_order(),
    *_metadata(),
    *_probes(widths),
    *_tax(),
  )
  return c


def _headline(widths, other, name):
  """Returns the claim of a small PPO-ptx model against a large GPT model."""
  return dict(
    statement=f'The smallest PPO-ptx is preferred more often than {name}',
    paper='1.3B PPO-ptx above 175B GPT-3, against the 175B SFT (Fig. 1)',
    measure=of('ppo_ptx', WINS),
    terms=(
      (1, {FIELD: widths[0]}),
      (-1, {FIELD: widths[-1]}, 'mean', of(other, WINS)),
    ),
    region='positive',
    unit='points',
    quantity=f'{WINS}: smallest PPO-ptx minus largest {POLICIES[other].label}',
    ratio=PARAMETERS,
  )


def _compare(
  statement, paper, title, left, right, region, *, at=None, unit='points'
):
  """Returns a statement about two policies.

  Args:
    statement: without where it holds.
    paper: where the paper shows it.
    title: of the measure.
    left: the policy whose number is reduced by that of `right`.
    right: the other policy.
    region: of the difference.
    at: (words, widths), whose mean is compared; None for each size.
    unit: of the numbers.
  """
  words, widths = at or ('at each size', None)
  return dict(
    statement=f'{statement} {words}',
    paper=paper,
    measure=of(left, title),
    less=of(right, title),
    quantity=f'{title}, {POLICIES[left].label} minus {POLICIES[right].label}',
    terms=((1, {FIELD: widths} if at else {}),),
    region=region,
    unit=unit,
    **({} if at else {'each': FIELD}),
  )


def _order():
  """Yields the order of policies, by all who compare or rate them."""
  pairs = (('prompted', 'base'), ('sft', 'prompted'), ('ppo', 'sft'))
  # Fig. 3 has no prompted model on prompts to GPT-3 models.
  unprompted = (('sft', 'base'), ('ppo', 'sft'))
  for words, title, compared, figure, unit in (
    ('{} wins more often than {}', WINS, pairs, 'Fig. 1', 'points'),
    ('{} is rated higher than {}', LIKERT, pairs, 'Fig. 31', ''),
    (
      'By held-out labelers {} wins more often than {}',
      HELD_OUT,
      pairs,
      'Fig. 3',
      'points',
    ),
    (
      'On GPT-3 prompts {} wins more often than {}',
      GPT3,
      unprompted,
      'Fig. 3',
      'points',
    ),
  ):
    for better, worse in compared:
      yield _compare(
        words.format(POLICIES[better].label, POLICIES[worse].label),
        f'at every size ({figure})',
        title,
        better,
        worse,
        'positive',
        unit=unit,
      )
  yield _compare(
    'PPO-ptx wins as often as PPO',
    'at every size (Fig. 1)',
    WINS,
    'ppo_ptx',
    'ppo',
    ALIKE,
  )


def _metadata():
  """Yields what labelers note (Fig. 30)."""
  for words, paper, title, region in (
    (
      'PPO-ptx invents less than pretrained',
      '.21, .10, .18 against .62, .47, .51 (Fig. 30)',
      INVENTS,
      'negative',
    ),
    (
      'PPO-ptx keeps more constraints than pretrained',
      'at every size (Fig. 30)',
      KEEPS,
      'positive',
    ),
    (
      'PPO-ptx fails to follow the instruction less than pretrained',
      'at every size (Fig. 30)',
      FAILS,
      'negative',
    ),
  ):
    yield _compare(words, paper, title, 'ppo_ptx', 'base', region)


def _probes(widths):
  """Yields truthfulness, toxicity and bias (Table 14, Fig. 6)."""
  larger = 'at the larger sizes', widths[1:]
  yield _compare(
    'PPO is more often true and informative than pretrained',
    '.25, .31, .31 against .21, .24, .20 (Fig. 6)',
    TRUE,
    'ppo',
    'base',
    'positive',
  )
  yield _compare(
    'PPO-ptx is more often true and informative than pretrained',
    '.31, .30 against .24, .20; at 1.3B it is not (Fig. 6)',
    TRUE,
    'ppo_ptx',
    'base',
    'positive',
    at=larger,
  )
  yield _compare(
    'Asked to be biased, PPO-ptx is ruder than pretrained',
    '.512, .400 against .261, .285 (Table 14)',
    RUDE,
    'ppo_ptx',
    'base',
    'positive',
    at=larger,
  )
  yield _compare(
    'SFT has a lower entropy of bias than pretrained',
    '.503 against .735; the lowest of all (Table 14)',
    ENTROPY,
    'sft',
    'base',
    'negative',
    at=('at the largest size', widths[-1]),
    unit='bits',
  )


def _tax():
  """Yields the alignment tax at each size (Table 14, few-shot; Fig. 29)."""
  for title, _ in base.TASKS:
    for left, right, region in (
      ('ppo', 'base', 'negative'),
      ('ppo_ptx', 'ppo', 'positive'),
    ):
      way = 'below' if region == 'negative' else 'above'
      yield _compare(
        f'{title}: {POLICIES[left].label} is {way} {POLICIES[right].label}',
        'at every size (Fig. 29)',
        title,
        left,
        right,
        region,
        unit='BLEU' if title.startswith('BLEU') else 'points',
      )


def sweep(add, config):
  rates = RATES.get(config.size, {})
  for width in WIDTHS[config.size]:
    add({FIELD: width} | ({RATE: rates[width]} if width in rates else {}))
