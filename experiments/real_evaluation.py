r"""Evaluates the policies of a study on real data, without a judge.

python -m instructrl.main --config=experiments/real_evaluation.py:cpu \
    --workdir=DIR/evaluation
"""

from ml_collections import config_dict

from experiments import common
from experiments.evaluation import Policies

# Prompts to answer, packed rows for the loss.
RECIPE = {'cpu': (96, 96), 'full': (512, 1024)}


def get_config(arg='cpu'):
  common.check_size(arg, tuple(RECIPE))
  c = common.base('125m', 'evaluation')
  c.size = arg
  c.inputs.data = '../data'
  c.inputs.rankings = '../data'
  c.inputs.reward_model = '../reward'
  c.inputs.reward_init = '../sft'  # initial weights of the reward model
  # Name -> run folder, see experiments/evaluation.py.
  c.policies = Policies(
    dict(imported='../import', sft='../sft', ppo='../ppo', ppo_ptx='../ppo_ptx')
  )
  # A policy named `prompted` is shown demonstrations, and of several prefixes
  # the one with the best reward-model score on validation prompts.
  c.num_shots = 3
  c.num_prefixes = 4
  c.num_prefix_prompts = 64
  # Name -> an evaluation; see instructrl/evaluators/evaluator.py.
  prompts, rows = RECIPE[arg]
  c.evals = config_dict.ConfigDict()
  c.evals.accuracy = dict(type='ranking_accuracy')
  c.evals.nll = dict(type='nll', num_rows=rows)
  c.evals.reward = dict(
    type='reward_model',
    num_prompts=prompts,
    temperature=1.0,  # of the answers, for all policies
  )
  c.prompt_len, c.response_len = common.REAL_LENGTHS[arg]  # tokens, at most
  c.batch_size = {'cpu': 16}.get(arg, 128)  # answers sampled at once
  return c
