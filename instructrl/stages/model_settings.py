"""Fields of a model that say how it is computed, and not what it computes.

Imports nothing, so that the experiments can import this module.
"""

# These fields may differ from those that a model's parameters were trained
# with: they change speed, memory and rounding, or matter in training only.
HOW_COMPUTED = (
  'attention',
  'attention_block',
  'dropout',
  'dtype',
  'frozen_layers',
  'init_std',
  'param_dtype',
  'remat',
  'scan_unroll',
)
