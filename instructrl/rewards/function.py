"""A Python function as a reward.

  def brevity(prompts, responses):
    return [-float(len(response.split())) for response in responses]

`prompts` is a list of `data.records.Prompt`, which have `text`, `use_case` and
other fields; `responses` is a list of their texts. The function returns one
finite number for each response. It is called once per iteration, in the host's
Python, with the whole batch.
"""

import importlib

import numpy as np

from instructrl.rewards.protocol import Episodes
from instructrl.runtime import errors
from instructrl.runtime import user_code
from instructrl.runtime.errors import ConfigError


class FunctionReward:
  """Calls a function with texts, and checks what it returns.

  Attributes:
    identity: see `user_code.fingerprint`.
  """

  def __init__(self, name: str, function: str):
    """Imports the function.

    Args:
      name: name of the reward term, for messages.
      function: 'module:name' of the function.

    Raises:
      ConfigError: the function cannot be imported.
    """
    self._name = f'rewards.{name}'
    field = f'{self._name}.function'
    module_name, colon, attribute = function.partition(':')
    if not (module_name and colon and attribute):
      raise ConfigError(f"{field} must be 'module:name'; got {function!r}")
    try:
      module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's own
      raise ConfigError(
        f'{field}: {module_name} cannot be imported: {errors.located(error)}'
      ) from error
    try:
      self.identity = user_code.fingerprint(function, module)
    except (OSError, TypeError) as error:
      raise ConfigError(
        f'{field}: {module_name} has no Python source, by which a resumed run '
        'knows that the function is the same: wrap it in a module of your own'
      ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
      raise ConfigError(f'{field}: {module_name} has no function {attribute!r}')
    self._function, self._field = found, f'{field}={function}'

  def __call__(self, episodes: Episodes) -> np.ndarray:
    """Returns [B] float32.

    Raises:
      ValueError: the function raised an error, or did not return one finite
        number per response.
    """
    count = len(episodes.response_tokens)
    prompts, responses = list(episodes.prompts), list(episodes.responses)
    try:
      found = self._function(prompts, responses)
    except Exception as error:
      raise ValueError(
        f'{self._field} raised {errors.located(error)}'
      ) from error
    try:
      scores = np.asarray(found, np.float32)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'{self._name} must return one number for each response: {error}'
      ) from error
    if scores.shape != (count,):
      raise ValueError(
        f'{self._name} must return one number for each of {count} responses; '
        f'got shape {scores.shape}'
      )
    for row in np.flatnonzero(~np.isfinite(scores))[:1]:
      raise ValueError(
        f'{self._name} must return finite numbers; got {scores[row]} for row '
        f'{row}: prompt {episodes.prompts[row].id!r}, response '
        f'{episodes.responses[row]!r}'
      )
    return scores
