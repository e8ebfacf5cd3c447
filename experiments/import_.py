r"""Weights of another tool: a Hugging Face folder, or a GGUF file.

python -m instructrl.main --config=experiments/import_.py \
    --workdir=DIR/import --config.source=SRC

does what `python -m instructrl.convert import SRC DIR/import` does.
"""

from experiments import common


def get_config(arg='125m'):
  """`arg` is of no matter: the sizes are the source's."""
  c = common.base(arg, 'import')
  del c.inputs['data']  # it starts from files
  c.source = ''  # the folder or file
  c.dtype = 'float32'  # of the parameters as they are stored; or 'bfloat16'
  c.pad = 'mean'  # the row of a PAD that the model does not have; or 'zeros'
  # How prompts are laid out; '' is the model's chat template, where it has one.
  c.prompt_template = ''
  c.response_template = ''
  c.system = ''  # a system message for the chat template
  return c
