"""The base of every ablation: the stages of a study, and the fields of a sweep.

An ablation is a file with two functions. `get_config(arg)` derives its config
from `get_config` here. `sweep(add, config)` calls
`add({'STAGE.field': value, ...})` once per point; `config` is the result of
`get_config` with the overrides of the command line.
"""

from ml_collections import config_dict

from experiments import common
from experiments import evaluation
from experiments import ppo as ppo_config
from experiments import pretrain
from experiments import reward
from experiments import sft
from experiments import study

# The stages that have configs at the paper's sizes.
TRAINED = ('pretrain', 'sft', 'ppo_init', 'reward', 'ppo', 'ppo_ptx')
SEEDS = (0, 1, 2)

# The lab's stand-ins for public sets: title, place in the results of `probes`.
SQUAD, DROP = 'F1 of reading (SQuADv2)', 'F1 of reading with numbers (DROP)'
COMPLETION = 'accuracy of completion (HellaSwag)'
TASKS = (
  (SQUAD, 'reading.f1'),
  (DROP, 'arithmetic.f1'),
  (COMPLETION, 'completion.accuracy'),
  ('BLEU of translation (Fr-En)', 'translation.bleu'),
)
# The paper's "validation reward" (E.6), and KL, of PPO's averaged policy.
REWARD, KL = 'validation reward', 'KL of a response, nats'
WIN_RATE, LIKERT = 'win rate against SFT', 'Likert'
CORPUS = 'loss on the corpus, nats'
# Two accuracies are alike if they differ by less than two points. The paper
# says "similar" and prints no number.
ALIKE = (-0.02, 0.02)
# Evaluation -> its number of prompts, or of probes of each task, at `tiny` in
# parts that judge whole studies: with those of the experiment `study` the
# intervals are as wide as many differences.
ITEMS = {'gpt3_prompts': 1500, 'generalization': 300, 'probes': 300}
# Labels of lines: the pretrained model and PPO's start.
GPT, INIT = 'pretrained', 'PPO start'


ACCURACY, LOG_LOSS = 'validation accuracy', 'validation log loss, nats'


def log_grid(centre, factor, steps):
  """Returns centre * factor**step for each step, rounded to three digits."""
  return tuple(float(f'{centre * factor**step:.3g}') for step in steps)


def get_config(arg, ends, measures):
  """Returns the stages of a study at a size, and the fields of a sweep.

  At the paper's sizes only the stages that train have configs; the folders of
  `lab` and `rankings` must be given, as in `--config.given.lab=PATH`. If the
  reward model has its own size, so do the models that it starts from.

  Args:
    arg: the size.
    ends: value of the field `ends`, without the stages that the size lacks.
    measures: value of the field `measures`, without those of other stages.
  """
  common.check_size(arg)
  c = config_dict.ConfigDict()
  c.size = arg
  # Seeds of all stages except those in `seeded`.
  c.world_seed = 0  # the lab: facts, texts, labelers
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  c.stages = config_dict.ConfigDict()
  c.given = config_dict.ConfigDict()  # folder of a stage that is not run here
  for experiment in study.STAGES:
    name = experiment.__name__.split('.')[-1]
    if arg in common.LAB_SIZES or name in TRAINED:
      c.stages[name] = experiment.get_config(arg)
  if arg in ppo_config.REWARD_MODEL:  # one reward model for all policies (C.2)
    size = ppo_config.REWARD_MODEL[arg]
    c.stages.reward_pretrain = pretrain.get_config(size)
    c.stages.reward_sft = sft.get_config(size)
    c.stages.reward_sft.inputs.init = '../reward_pretrain'
    c.stages.reward = reward.get_config(size)
    c.stages.reward.inputs.init = '../reward_sft'
  for name in (*c.stages, 'lab', 'rankings'):
    c.given[name] = ''
  # The stages whose results are wanted. The stages that they start from run
  # too, once for all points that share them.
  c.ends = tuple(name for name in ends if name in c.stages)
  # Each point is run with each of these train seeds in the stages of `seeded`.
  c.seeds = SEEDS[:1] if arg == 'micro' else SEEDS
  c.seeded = c.ends[:1]
  # Numbers of a point: (title, stage, file, place in the file). In
  # metrics.jsonl the number is the mean over the last fifth of the lines.
  c.measures = tuple(m for m in measures if m[1] in c.ends)
  # Policies that the points do not change, as dashed lines of a panel: (title
  # of a measure, label, stage, file, place).
  c.lines = ()
  # The paper's numbers, as hollow marks: (title of a measure, value of plot.x,
  # number).
  c.paper = ()
  # Statements of the paper, to be judged; see instructrl/reports/shapes.py.
  c.expected = ()
  c.studies = False  # whether each point is a study, with a report of its own
  c.plot = config_dict.ConfigDict()
  c.plot.x = ''  # the swept field of the horizontal axis
  c.plot.at = ''  # a measure on this axis instead, such as the parameters
  c.plot.label = ''  # name of the axis; '' = the field's
  c.plot.by = ''  # the swept field with a line per value; '' = none
  c.plot.log = False  # whether the axis is logarithmic
  c.plot.joined = True  # whether a line joins the points of the axis
  # Whether a measure 'LINE: PANEL' is a line of a panel, not a panel.
  c.plot.lines = False
  c.plot.colors = config_dict.ConfigDict()  # LINE -> '#rrggbb'
  return c


def ranking(others='accuracy, held-out labelers'):
  """Returns the measures of a reward model: title, stage, file, place.

  Args:
    others: title of the accuracy on labelers that it is not trained on.
  """
  return tuple(
    (title, 'reward', 'DONE', f'result.accuracy.{place}')
    for title, place in (
      (ACCURACY, 'in_group.accuracy'),
      (LOG_LOSS, 'in_group.log_loss.value'),
      (others, 'heldout.accuracy'),
    )
  )


def ask_more(c):
  """Gives the evaluation of a sweep's config more questions, at `tiny`."""
  if c.size == 'tiny':
    for name, items in ITEMS.items():
      evaluated = c.stages.evaluation.evals[name]
      evaluated['num_probes' if name == 'probes' else 'num_prompts'] = items


def reward_model(arg):
  """Returns the config of an ablation of the reward model.

  A run is short, so that there are six seeds: their interval (Student's t) is
  0.42 times as wide as that of three.
  """
  c = get_config(arg, ('reward',), ranking())
  if arg != 'micro':
    c.seeds = tuple(range(6))
  return c


def ppo(arg, stage='ppo_ptx', *, people=False, measures=()):
  """Returns the config of an ablation of PPO.

  Args:
    arg: the size.
    stage: 'ppo' or 'ppo_ptx'.
    people: whether the policy is judged against SFT (Fig. 36-38), instead of on
      public tasks beside the pretrained model and PPO's start (Fig. 33-35).
    measures: measures in addition.
  """
  tax = 'evals.probes.results.probes'
  judged = (
    (WIN_RATE, f'preference.{stage}.win_rate'),
    (LIKERT, f'likert.{stage}.value'),
  )
  c = get_config(
    arg,
    (stage, 'evaluation', *(() if people else ('lines',))),
    (
      *(
        (title, 'evaluation', 'results.json', place)
        for title, place in (
          [(t, f'evals.preference.results.{place}') for t, place in judged]
          if people
          else [(t, f'{tax}.{stage}.{place}.value') for t, place in TASKS]
        )
      ),
      (REWARD, stage, 'DONE', 'result.validation.reward.value'),
      (KL, stage, 'DONE', 'result.validation.kl.value'),
      (CORPUS, stage, 'DONE', 'result.pretrain/nll'),
      *measures,
    ),
  )
  if 'evaluation' not in c.stages:
    return c
  evaluate(c.stages.evaluation, (stage, *(('sft',) if people else ())))
  for skipped in (
    'gpt3_prompts',
    'generalization',
    'probes' if people else 'preference',
  ):
    c.stages.evaluation.evals[skipped].type = ''
  if not people:
    add_lines(c)
  return c


def evaluate(c, policies):
  """Leaves only some policies in the config of an evaluation."""
  for name in {*c.policies} - {*policies}:
    c.policies[name] = ''


def add_lines(c):
  """Adds the lines of Fig. 33-35: the pretrained model and PPO's start.

  Their evaluation is a stage of its own, which all ablations share. Its reward
  is over 1,500 validation prompts, that of PPO's result over the first 512 of
  them; PPO's start has 0.002 and -0.008 there. The pretrained model is no line
  of the reward: its -1.6, for text that is no answer, would flatten the panel.
  """
  lines = c.stages.lines = evaluation.get_config(c.size)
  evaluate(lines, ('base', 'ppo_init'))
  for name in ('preference', 'gpt3_prompts', 'generalization'):
    lines.evals[name].type = ''
  lines.evals.reward.type = 'reward_model'
  c.given.lines = ''
  c.ends += ('lines',)
  places = {title: f'probes.results.probes.{{}}.{p}' for title, p in TASKS}
  places[REWARD] = 'reward.results.score.policies.{}'
  c.lines = tuple(
    (title, label, 'lines', 'results.json', f'evals.{place.format(name)}.value')
    for title, place in places.items()
    for label, name in ((GPT, 'base'), (INIT, 'ppo_init'))
    if (title, label) != (REWARD, GPT)
  )


def rise(measure, field, high, low, statement, paper, **other):
  """Returns the statement that a measure is larger at `high` than at `low`."""
  return dict(
    statement=statement,
    paper=paper,
    measure=measure,
    terms=((1, {field: high}), (-1, {field: low})),
    region='positive',
    **other,
  )


def fall(*args, **other):
  """Returns the statement that a measure is smaller at `high`."""
  return rise(*args, **other) | dict(region='negative')


def against(measure, where, statement, paper, how='mean', **other):
  """Returns the statement that points are above the pretrained model."""
  return dict(
    statement=statement,
    paper=paper,
    measure=measure,
    terms=((1, where, how), (-1, GPT)),
    region='positive',
    **other,
  )


def papers(figures):
  """Returns (title, the paper's figures) of the stand-ins for Fig. 33-35.

  Args:
    figures: of SQuADv2 and of DROP.
  """
  return list(zip((SQUAD, DROP), figures, strict=True))


def measured(c, *expected):
  """Returns the statements about measures that the size has."""
  titles = [measure[0] for measure in c.measures]
  return tuple(entry for entry in expected if entry['measure'] in titles)
