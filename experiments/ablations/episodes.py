r"""Training for twice as many episodes, three seeds (figure 35, E.11).

python -m instructrl.sweep --config=experiments/ablations/episodes.py:tiny \
    --workdir=DIR

The paper, 1.3B PPO-ptx with 512k episodes: F1 starts above GPT-3 (62.7 and
26.3), SQuADv2 is below it from 200k on (56 at the end) and DROP from 65k on
(23.7); more than 256k episodes do not help.

The learning rate is constant, so a run with fewer episodes is a prefix of one
with more. The points are checkpoints of one run a seed, from about 1/8 of the
recipe's iterations to twice as many: 7 to 112 at `tiny`, whose recipe has 60.
The axis has iterations. Sizes without an evaluation compare whole runs.

Result of `tiny`, three seeds: PPO's start has 0.55 F1 of reading and 56 BLEU of
translation, the pretrained model 0.70 and 66. From iteration 7 to 112 reading
rises from 0.56 to 0.65 and translation from 57 to 67: PPO-ptx regains what its
start has lost, and the paper's fall is not shown. The validation reward rises
all the way, from 0.01 to 0.14. A run takes 5 minutes and the evaluation of a
checkpoint 49 s, on one core of an AMD EPYC server CPU, beside another run.
"""

from experiments.ablations import base

CHECKPOINT = 'evaluation.policies.ppo_ptx'
ITERATIONS = 'ppo_ptx.ppo.num_iterations'
# Eighths of the recipe's episodes: 32k of the paper's.
EIGHTHS = {'micro': (1, 16), 'tiny': (1, 2, 4, 8, 12, 16)}
ALL = (1, *range(2, 17, 2))


def checkpoints(size, every):
  return [
    f'../ppo_ptx/checkpoints/{eighth * every:08d}'
    for eighth in EIGHTHS.get(size, ALL)
  ]


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.seeds = base.SEEDS[:1] if arg == 'micro' else base.SEEDS  # figure 35
  run = c.stages.ppo_ptx
  if not c.lines:
    c.plot.x = ITERATIONS
    return c
  every = run.checkpoint.every = max(1, run.ppo.num_iterations // 8)
  run.ppo.num_iterations, run.checkpoint.keep = 16 * every, 16
  run.validation_prompts = 0  # the evaluation scores each checkpoint
  evaluation = c.stages.evaluation
  evaluation.evals.reward.type = 'reward_model'
  score = 'evals.reward.results.score.policies.ppo_ptx.value'
  c.measures = (
    *(m for m in c.measures if m[1] == 'evaluation'),
    (base.REWARD, 'evaluation', 'results.json', score),
  )
  c.plot.x, c.plot.label, c.plot.log = CHECKPOINT, 'iterations', True
  first, *_, last = checkpoints(arg, every)
  steps = [f'iteration {int(path[-8:])}' for path in (first, last)]
  c.expected = tuple(
    statement
    for title, paper in base.papers(
      ('62.7 to 56, GPT 59', '26.3 to 23.7, GPT 25.4')
    )
    for statement in (
      base.against(
        title,
        {CHECKPOINT: first},
        f'{title} starts above the pretrained model',
        paper,
        unit='points',
        quantity=f'{title}, {steps[0]} minus {base.GPT}',
      ),
      base.fall(
        title,
        CHECKPOINT,
        last,
        first,
        f'{title} falls with episodes',
        paper,
        unit='points',
        quantity=f'{title}, {steps[1]} minus {steps[0]}',
      ),
      base.against(
        title,
        {CHECKPOINT: last},
        f'{title} ends below the pretrained model',
        paper,
        unit='points',
        quantity=f'{title}, {steps[1]} minus {base.GPT}',
      )
      | dict(region='negative'),
    )
  )
  return c


def sweep(add, config):
  run = config.stages.ppo_ptx
  if not config.lines:
    for times in (1, 2):
      add({ITERATIONS: times * run.ppo.num_iterations})
    return
  for checkpoint in checkpoints(config.size, run.checkpoint.every):
    add({CHECKPOINT: checkpoint})
