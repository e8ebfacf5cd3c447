r"""Selects the checkpoint of `nlp` by RM score on validation prompts (C.5).

python -m instructrl.main --config=experiments/select_nlp.py:tiny \
    --workdir=DIR/select_nlp
"""

from experiments import select_sft


def get_config(arg='tiny'):
  c = select_sft.get_config(arg)
  c.inputs.sft = '../nlp'
  c.num_prompts //= 2
  return c
