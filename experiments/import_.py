r"""Imports weights from a Hugging Face folder or a GGUF file.

python -m instructrl.main --config=experiments/import_.py \
    --workdir=DIR/import --config.source=SRC

This equals `python -m instructrl.convert import SRC DIR/import`.
"""

from experiments import common


def get_config(arg='125m'):
  """Ignores `arg`: the imported model has its own size."""
  c = common.base(arg, 'import')
  del c.inputs['data']  # it starts from files
  c.source = ''  # path of the folder or file
  c.dtype = 'float32'  # of the stored parameters; or 'bfloat16'
  c.pad = 'mean'  # embedding of PAD if the model has none; or 'zeros'
  # Templates of prompts; '' = the model's chat template, if there is one.
  c.prompt_template = ''
  c.response_template = ''
  c.system = ''  # system message of the chat template
  return c
