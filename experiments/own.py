r"""A study from your own data alone: no lab, and no imported weights.

  python -m instructrl.study --config=experiments/own.py:tiny --workdir=DIR \
      --config.documents="('text:pages.txt',)" \
      --config.demonstrations="('jsonl:shown.jsonl',)" \
      --config.rankings="('jsonl:ranked.jsonl',)"

The stages train a tokenizer and a small model on the documents, then SFT, the
reward model, PPO and PPO-ptx as the paper does. `python -m instructrl.data
SPEC` shows how a source is read before anything is trained. `:tiny` is a model
of 1M parameters for two CPU cores, `:small` one of 10M for an accelerator. So
small a model learns the style of narrow data, not knowledge; to start from
pretrained weights, use experiments/real.py.
"""

from ml_collections import config_dict

from experiments import common
from experiments import data
from experiments import ppo
from experiments import ppo_init
from experiments import ppo_ptx
from experiments import pretrain
from experiments import real_evaluation
from experiments import reward
from experiments import select_sft
from experiments import sft

TRAINED = (pretrain, sft, ppo_init, reward, select_sft, ppo, ppo_ptx)
# Tokens of a prompt and of a response at most; pieces of the tokenizer.
RECIPE = {
  'micro': (32, 16, 320),
  'tiny': (96, 64, 2048),
  'small': (128, 128, 4096),
}


def get_config(arg='tiny'):
  common.check_size(arg, tuple(RECIPE))
  prompt_len, response_len, vocab_size = RECIPE[arg]
  c = config_dict.ConfigDict()
  # Seeds of all stages; a stage's own seed fields are not used in a study.
  c.world_seed = 0  # the split of the data
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  # Sources: NAME[/SUBSET][:PATH][?limit=ROWS&option=value...].
  c.documents = ('text:documents.txt',)  # for pretraining
  c.demonstrations = ('jsonl:demonstrations.jsonl',)
  c.rankings = ('jsonl:rankings.jsonl',)
  c.prompts = ()  # for PPO only; empty: the ranked prompts
  stages = c.stages = config_dict.ConfigDict()
  stages.data = data.get_config(arg)
  for name in ('documents', 'demonstrations', 'rankings', 'prompts'):
    stages.data[name] = c.get_ref(name)
  stages.data.tokenizer.vocab_size = vocab_size
  stages.data.validation_fraction = 0.2 if arg == 'micro' else 0.1
  for experiment in TRAINED:
    stages[experiment.__name__.split('.')[-1]] = experiment.get_config(arg)
  # These evaluations need no lab: held-out rankings and text, and the scores of
  # the reward model.
  evaluation = stages.evaluation = real_evaluation.get_config('cpu')
  evaluation.size = arg
  del evaluation.policies['imported']
  evaluation.policies.base = '../pretrain'
  evaluation.policies.ppo_init = '../ppo_init'
  evaluation.policies.sft = '../select_sft'  # the step that it selected
  # Run in this order; each in a folder of its name.
  c.order = tuple(stages)
  for stage in stages.values():
    for name in ('data', 'rankings'):
      if name in stage.inputs:
        stage.inputs[name] = '../data'
    lengths = stage.get('ppo', stage)
    if 'prompt_len' in lengths:
      lengths.update(prompt_len=prompt_len, response_len=response_len)
  return c
