"""instructrl: InstructGPT in JAX, from raw text to an aligned policy.

Pretraining, supervised fine-tuning, reward modelling and PPO(-ptx) after
Ouyang et al. 2022, "Training language models to follow instructions with human
feedback", with a simulated world in which every measurement of the paper has
a known right answer.
"""

import sys

__version__ = '0.1.0'

# Python runs `python -m instructrl.COMMAND`, and has yet to find the module.
if sys.argv[:1] == ['-m'] and any(
  word.removeprefix('-m').startswith('instructrl') for word in sys.orig_argv
):
  from instructrl.runtime import exits

  exits.at_start()
  if 'instructrl' not in sys.orig_argv:  # the list of commands needs nothing
    exits.need_environment()


def __dir__():
  return sorted([*globals(), 'load'])


def __getattr__(name):
  """Imports `load` on first use, so that `import instructrl` is quick."""
  if name == 'load':
    from instructrl.stages.loaded import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
