r"""Repeats steps 2 and 3: rankings of the newest policy, reward model, PPO-ptx.

python -m instructrl.study --config=experiments/rounds.py:tiny --workdir=DIR

Section 3.1: the two steps can be iterated. A round has the stages rankings_R,
reward_R and ppo_R. Flags set the fields of all rounds, such as
--config.round.ppo.ppo.kl_coef=0.1; --config.round.ppo.ppo.ptx_coef=0 is PPO.
With --config.rounds.labelers=people the study ends with exit status 77 whenever
people have to rank, and the same command goes on; docs/feedback.md has the
steps.
"""

from ml_collections import config_dict

from experiments import evaluation
from experiments import lab
from experiments import ppo_init
from experiments import ppo_ptx
from experiments import pretrain
from experiments import rankings
from experiments import reward
from experiments import sft

STAGES = (lab, pretrain, sft, ppo_init, evaluation)
# Rounds; in each, prompts to rank for training and for validation. Every round
# has other prompts, and the lab has 6,554 to rank at `tiny`.
RECIPE = {'micro': (2, 48, 16), 'tiny': (3, 2000, 200), 'small': (3, 3000, 600)}


def get_config(arg='tiny'):
  c = config_dict.ConfigDict()
  # Seeds of all stages; a study ignores the seed fields of its stages.
  c.world_seed = 0  # the lab: facts, texts, labelers
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  c.rounds = config_dict.ConfigDict()
  c.rounds.count, num_prompts, num_validation = RECIPE[arg]
  # The policy of a round starts from 'first', the policy of the template
  # (`ppo_init`), or from 'last', the policy of the round before.
  c.rounds.policy = 'first'
  # The reward model of a round starts from 'first', the weights of the template
  # (`sft`), or from 'last', the reward model of the round before. It trains on
  # the rankings of all rounds so far.
  c.rounds.reward = 'first'
  c.rounds.labelers = 'lab'  # who ranks: the simulated labelers, or 'people'
  # Templates: the config of these stages in each round.
  c.round = config_dict.ConfigDict()
  r = c.round.rankings = rankings.get_config(arg)
  r.num_prompts, r.num_validation = num_prompts, num_validation  # per round
  r.inputs.policy = '../ppo_init'  # of round 1; then the newest policy
  # Candidates: (policy, temperature, samples), and one demonstration. `policy`
  # is the newest one; most comparisons are of SFT policies (section 3.1).
  r.sources = (
    ('policy', 1.0, 4),
    ('sft', 1.0, 2),
    ('early_sft', 1.0, 1),
    ('early_sft', 0.5, 2),
    ('base', 0.9, 1),
  )
  r.people = config_dict.ConfigDict()
  # Fraction of the prompts that people have ranked when the study goes on.
  r.people.enough = 1.0
  r.people.database = ''  # URL of the labels; '' = SQLite in the project folder
  c.round.reward = reward.get_config(arg)
  p = c.round.ppo = ppo_ptx.get_config(arg)
  # The KL penalty of all rounds is from one policy, also if rounds.policy is
  # 'last'.
  p.inputs.reference = '../ppo_init'
  c.order = tuple(stage.__name__.split('.')[-1] for stage in STAGES)
  c.stages = config_dict.ConfigDict(
    {name: stage.get_config(arg) for name, stage in zip(c.order, STAGES)}
  )
  e = c.stages.evaluation
  for name in e.policies:
    e.policies[name] = ''
  e.policies.update(sft='../sft', ppo_init='../ppo_init')
  preference = e.evals.preference
  e.evals = config_dict.ConfigDict(dict(preference=preference))
  # Score of the newest reward model, and KL.
  e.evals.reward = dict(
    type='reward_model',
    num_prompts=preference.num_prompts,
    temperature=1.0,
    kl_from='ppo_init',  # as the KL penalty
  )
  e.evals.over_optimization = dict(
    type='over_optimization',
    num_prompts=preference.num_prompts,
    num_answers=4,  # per prompt and policy
    temperature=1.0,
    reference='sft',
    rewards=config_dict.ConfigDict(),  # policy -> its reward model, by round
  )
  return c
