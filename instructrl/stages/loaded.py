"""A trained run as a Python object that takes and returns text."""

from collections.abc import Iterable, Sequence
import functools
import math
import numbers
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import rng
from instructrl.data import tasks
from instructrl.data.records import Prompt
from instructrl.evaluators.language_model import Engine
from instructrl.evaluators.language_model import LanguageModel
from instructrl.lab.people import chat
from instructrl.runtime import arrays
from instructrl.runtime import run_folder
from instructrl.runtime import typed
from instructrl.runtime.errors import NonFiniteError
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import opening
from instructrl.stages import policy_settings
from instructrl.stages import scoring
from instructrl.stages import to_try
from instructrl.stages.field_settings import Bounds
from instructrl.tokenizers import dialogue

_MAX_BATCH = 64  # sequences computed at once


def load(path: str | os.PathLike) -> 'LoadedRun':
  """Loads a trained policy or reward model.

  Example:

    policy = instructrl.load('runs/tiny/ppo')
    answers = policy.generate(['Where was Mara born?'], n=2, seed=1)
    # [['Mara was born in Oslin.', 'In Oslin.']]
    policy.logprobs(['Where was Mara born?'], ['In Oslin.'])
    # array([-1.9], dtype=float32)
    reward_model = instructrl.load('runs/tiny/reward')
    reward_model.score(['Where was Mara born?'], ['In Oslin.'])
    # array([0.7], dtype=float32)

  Args:
    path: a run folder (its newest checkpoint), one step of its checkpoints, or
      a run of `select_sft`, which is the step of SFT that it selected.

  Raises:
    ConfigError: the run trained no model, or with another tokenizer than the
      one beside it.
    CheckpointError: there is no checkpoint, or the newest is damaged.
    NonFiniteError: a parameter is NaN or infinite.
  """
  opened = opening.open_run(typed.path(path))
  finite = jax.jit(functools.partial(jax.tree.map, _is_finite))(opened.params)
  for leaf, is_finite in jax.tree_util.tree_leaves_with_path(finite):
    if not is_finite:
      raise NonFiniteError(
        f'{path}: the parameter {arrays.name_of(leaf)} has values that are NaN '
        'or infinite: name an earlier step of the checkpoints'
      )
  return LoadedRun(path, opened)


def _is_finite(x: jax.Array) -> jax.Array:
  return jnp.isfinite(x).all()


class LoadedRun:
  """A policy or reward model that `load` opened.

  Attributes:
    path: the path that was given to `load`.
    config: the config that the run was made with.
    tok: the tokenizer.
    is_reward_model: whether `score` works; otherwise `generate` and `logprobs`
      do.
  """

  def __init__(self, path: str | os.PathLike, opened: opening.Opened):
    self.path = path
    self.config, self.tok = opened.config, opened.tok
    self.is_reward_model = opened.is_reward_model
    self._opened = opened
    self._engine = functools.lru_cache(maxsize=8)(
      lambda batch_size: Engine(opened.model, opened.tok, batch_size=batch_size)
    )
    self._scorer = functools.lru_cache(maxsize=8)(
      lambda batch_size: scoring.Scorer(
        opened.model, opened.tok, batch_size=batch_size
      )
    )

  def generate(
    self,
    prompts: Sequence[str | Sequence[str]],
    n: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 64,
    seed: int = 0,
    *,
    first: int = 0,
  ) -> list[list[str]]:
    """Samples answers of a policy.

    An answer depends on the seed, the place of its prompt and its own number,
    not on how many prompts are answered at once.

    Args:
      prompts: N prompts, laid out as in the training of the run. A list of
        3, 5, ... texts is a dialogue: turns of the user and of the assistant,
        the user's last.
      n: answers per prompt.
      temperature: 0 is greedy.
      top_p: nucleus; 1 is the whole distribution.
      max_tokens: largest number of tokens in an answer.
      seed: seed of the sampling.
      first: place of the first prompt, for prompts that are given in parts.

    Returns:
      N lists of n answers.

    Raises:
      ConfigError: the run is a reward model, or an argument is out of range.
    """
    self._require_policy('generate')
    _check('n', n, low=1)
    _check('max_tokens', max_tokens, low=1)
    _check('seed', seed)
    _check('first', first, low=0)
    _check('temperature', temperature, numbers.Real, low=0, below=math.inf)
    _check('top_p', top_p, numbers.Real, above=0, high=1)
    prompts = [self._prompt(prompt) for prompt in _iterable(prompts)]
    if not prompts:
      return []
    answers = self._policy(len(prompts) * n, max_tokens).respond(
      [prompt for prompt in prompts for _ in range(n)],
      temperature=temperature,
      top_p=top_p,
      seed=seed,
      purpose=rng.Purpose.SAMPLE,
      rows=range(first * n, (first + len(prompts)) * n),
    )
    return [answers[i : i + n] for i in range(0, len(answers), n)]

  def logprobs(
    self, prompts: Sequence[str], responses: Sequence[str]
  ) -> np.ndarray:
    """Computes how likely a policy finds responses.

    Args:
      prompts: N prompts.
      responses: N responses, one to each prompt.

    Returns:
      [N] float32, nats: the log-probability of each response, summed over its
      tokens. The end of the response is one of them, except for a run of
      the stage `pretrain`.

    Raises:
      ConfigError: the run is a reward model, or the lengths differ.
    """
    self._require_policy('logprobs')
    prompts, responses = _pairs(prompts, responses)
    policy = self._policy(len(prompts), 1)
    if policy.template == 'plain':
      tokens = [self.tok.continuation(response) for response in responses]
    else:
      tokens = [self.tok.response(response) for response in responses]
    checks.require(all(tokens), 'a response is empty')
    return policy.engine.score(
      policy.params, [policy.lay_out(prompt) for prompt in prompts], tokens
    )

  def score(
    self,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    max_tokens: int | None = None,
  ) -> np.ndarray:
    """Scores responses with a reward model.

    Args:
      prompts: N prompts.
      responses: N responses, one to each prompt.
      max_tokens: a longer response loses its end, as in training; None scores
        responses as they are.

    Returns:
      [N] float32: the rewards.

    Raises:
      ConfigError: the run is a policy, or the lengths differ.
    """
    if max_tokens is not None:
      _check('max_tokens', max_tokens, low=1)
    checks.require(
      self.is_reward_model,
      f'{self.path} is a policy: use generate or logprobs; only a reward model '
      'has score',
    )
    prompts, responses = _pairs(prompts, responses)
    scorer = self._scorer(min(max(len(prompts), 1), _MAX_BATCH))
    return scorer(
      self._opened.params,
      [tasks.chat_prompt(self.tok, prompt) for prompt in prompts],
      [self.tok.response(response)[:max_tokens] for response in responses],
    )

  def prompt_tokens(self, prompt: str | Sequence[str]) -> int:
    """Returns the number of tokens of a prompt, or of a dialogue, laid out."""
    return len(tasks.chat_prompt(self.tok, self._prompt(prompt)))

  def prompts_to_try(self) -> list[str]:
    """Returns a test prompt of each use case, from the run's data folder.

    The list is empty if the data folder is gone or has no such prompts. A model
    that was trained in the lab knows the words of its world only.
    """
    return to_try.prompts(self._data)

  @functools.cached_property
  def _data(self) -> pathlib.Path:
    """The data folder that the run was trained with; it may be gone."""
    folder = run_folder.find(typed.path(self.path).absolute())
    return inputs.locate(
      folder or self.path, self.config.inputs.get('data', '../lab')
    )

  def _prompt(self, prompt: str | Sequence[str]) -> str | Prompt:
    """Returns a prompt, or the turns of a dialogue, as `tasks` takes it."""
    turns = _texts(prompt if isinstance(prompt, (list, tuple)) else [prompt])
    checks.require(
      len(turns) % 2 == 1 and all(turn.strip() for turn in turns),
      "a prompt is empty, or a dialogue does not end with the user's turn: "
      f'got {turns!r}',
    )
    if len(turns) == 1:
      return turns[0]
    if to_try.is_lab(self._data):
      return chat.turns(*turns)
    text = dialogue.join_turns(turns)
    return Prompt('', text, '', 'chat', 'test', turns=tuple(turns))

  def _policy(self, num_rows: int, max_tokens: int) -> LanguageModel:
    return LanguageModel(
      str(self.path),
      self._engine(min(max(num_rows, 1), _MAX_BATCH)),
      self._opened.params,
      template=policy_settings.template_of('', self.config.stage),
      response_len=max_tokens,
    )

  def _require_policy(self, method: str) -> None:
    checks.require(
      not self.is_reward_model,
      f'{self.path} is a reward model: use score; only a policy has {method}',
    )


def _check(name: str, value, kind: type = numbers.Integral, **bounds) -> None:
  """Raises a ConfigError unless a value is a number within `Bounds`."""
  noun = 'an integer' if kind is numbers.Integral else 'a number'
  checks.require(
    isinstance(value, kind) and not isinstance(value, bool),
    f'{name} must be {noun}; got {value!r}',
  )
  fault = Bounds(**bounds).fault(name, value)
  checks.require(not fault, fault)


_WANTED = 'prompts and responses must be lists of str; got'


def _iterable(values: Iterable) -> Iterable:
  """Returns values; raises a ConfigError if they are one text, or no list."""
  checks.require(
    isinstance(values, Iterable) and not isinstance(values, (str, bytes)),
    f'{_WANTED} one {type(values).__name__}',
  )
  return values


def _texts(values: Iterable[str]) -> list[str]:
  """Returns texts as a list; raises a ConfigError if they are not texts."""
  texts = list(_iterable(values))
  for text in texts:
    checks.require(isinstance(text, str), f'{_WANTED} {text!r} in one')
  return texts


def _prompts(prompts: Iterable[str]) -> list[str]:
  texts = _texts(prompts)
  checks.require(all(text.strip() for text in texts), 'a prompt is empty')
  return texts


def _pairs(prompts, responses) -> tuple[list[str], list[str]]:
  prompts, responses = _prompts(prompts), _texts(responses)
  checks.require(
    len(prompts) == len(responses),
    f'{len(prompts)} prompts, but {len(responses)} responses',
  )
  return prompts, responses
