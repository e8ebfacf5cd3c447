"""The evaluations of a config, `config.evals`, and their run."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

from instructrl import rng
from instructrl.data.folder import DataFolder
from instructrl.data.records import Prompt
from instructrl.evaluators import evaluator as evaluator_lib
from instructrl.evaluators import language_model
from instructrl.models import heads
from instructrl.models.transformer import Model
from instructrl.runtime import errors
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import lab
from instructrl.stages import policies
from instructrl.stages import policy_settings
from instructrl.stages import scoring


def chosen(config) -> dict:
  """Returns NAME -> fields of the evaluations whose `type` is not empty."""
  return {
    name: fields
    for name, fields in config.evals.items()
    if fields.get('type', None) != ''
  }


def validate(config) -> None:
  """Raises a ConfigError if `config.evals` is invalid."""
  if chosen(config):
    sizes = config.get('ppo', config)
    checks.positive(sizes, 'prompt_len', 'response_len', 'batch_size')
  for name, fields in chosen(config).items():
    evaluator_lib.validate(name, fields.to_dict())


def make(
  context: evaluator_lib.Context, fields: Mapping
) -> evaluator_lib.Evaluator:
  """Makes the evaluator of `config.evals.NAME`."""
  return evaluator_lib.load(fields['type'])(
    context, **evaluator_lib.arguments(fields)
  )


def outcome(
  evaluator: evaluator_lib.Evaluator, models: Mapping
) -> evaluator_lib.Outcome:
  """Runs an evaluation, and checks the type of what it returns."""
  found = evaluator.run(models)
  if not isinstance(found, evaluator_lib.Outcome):
    raise ValueError(
      f'run must return an evaluator.Outcome; got a {type(found).__name__}'
    )
  return found


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
  """Names an evaluation in the errors of its code.

  A ConfigError names a field already. The message of a ValueError begins with
  the name; another exception is a defect, and its traceback ends with the name.
  """
  try:
    yield
  except checks.ConfigError:
    raise
  except ValueError as error:
    raise ValueError(f'evals.{name}: {errors.located(error)}') from error
  except Exception as error:
    error.add_note(f'raised in the evaluation config.evals.{name}')
    raise


class OpenRewardModel:
  """See `protocol.RewardModel`."""

  def __init__(self, opened: policies.Opener, name: str = 'reward_model'):
    self._opened = opened
    self._params, self._scorer, self._config = scoring.load_scorer(opened, name)

  def score(self, prompts, responses):
    return self._scorer(self._params, prompts, responses)

  def score_untrained(self, prompts, responses):
    backbone = self._opened.open('reward_init').params
    key = rng.key(self._config.train_seed, rng.Purpose.HEAD_INIT)
    head = heads.init_head(key, self._config.model.d_model)
    untrained = {'backbone': backbone, 'head': head}
    return self._scorer(untrained, prompts, responses)


@dataclasses.dataclass
class Shared:
  """Inputs that the evaluations of one run share; each is opened once."""

  opened: policies.Opener

  @functools.cached_property
  def reward_model(self) -> OpenRewardModel:
    return OpenRewardModel(self.opened)

  @functools.cached_property
  def world(self):
    return lab.load_world(self.opened.input('data'))

  @functools.cached_property
  def labelers(self) -> list:
    people = lab.final_labelers(self.world)
    return lab.with_noise(people, self.opened.input('rankings'))


class StageContext:
  """The run that one evaluation belongs to; see `protocol.Context`."""

  def __init__(
    self,
    shared: Shared,
    *,
    prompt_len: int,
    response_len: int,
    progress: Callable[[str], None] = lambda text: None,
    kept_in: pathlib.Path | None = None,
  ):
    """Makes a context.

    Args:
      shared: by all evaluations of the run.
      prompt_len: tokens of a prompt at most.
      response_len: tokens of a response at most.
      progress: shows a line.
      kept_in: folder of the finished parts; None keeps none.
    """
    self._shared, self._opened = shared, shared.opened
    self.prompt_len, self.response_len = prompt_len, response_len
    self.progress, self._kept_in = progress, kept_in
    self.seed = self._opened.config.eval_seed
    self.tok, self.mesh = self._opened.tok, self._opened.mesh
    self.batch_size = self._opened.batch_size

  def data(self, name: str = 'data') -> DataFolder:
    return inputs.data_folder(self._opened, name)

  def prompts(self, split: str) -> list[Prompt]:
    return self._opened.prompts(split, self.prompt_len)

  def has_kl(self, policy: str) -> bool:
    return policy_settings.kind(policy).has_kl

  def reward_model(self, name: str = 'reward_model') -> OpenRewardModel:
    if name == 'reward_model':
      return self._shared.reward_model
    return OpenRewardModel(self._opened, name)

  def world(self):
    return self._shared.world

  def labelers(self) -> list:
    return self._shared.labelers

  def kept(self, name: str, make: Callable[[], Any]) -> Any:
    if self._kept_in is None:
      return make()
    path = self._kept_in / f'{name}.json'
    if processes.agree(path.is_file()):
      self.progress(f'{name}: finished before')
      return files.read_sealed(path, version=1)['part']
    found = make()
    if processes.primary():
      path.parent.mkdir(parents=True, exist_ok=True)
      try:
        part = {'format_version': 1, 'part': found}
        files.write_sealed(path, part, indent=None)
      except TypeError as error:
        raise ValueError(f'{name} must hold what JSON can: {error}') from error
    return found


def in_training(run, model: Model, params_of: Callable) -> list[tuple]:
  """Returns the evaluations of a training stage, for `Run.loop`.

  They draw from `eval_seed` and leave the training unchanged.

  Args:
    run: the open `Run`; its config's `evals` have `every`, in steps.
    model: of the policy in training.
    params_of: state -> parameters of the policy.

  Returns:
    (every, function (state, step) -> {'eval/NAME/...': value}) of each
    evaluation with `every` > 0.
  """
  config = run.config
  due = {
    name: fields.to_dict()
    for name, fields in chosen(config).items()
    if fields.get('every', 0)
  }
  if not due:
    return []
  sizes = config.get('ppo', config)
  shared = Shared(policies.Opener(config, run.workdir, sizes.batch_size))
  engine = language_model.Engine(
    model, run.tokenizer(), batch_size=sizes.batch_size
  )
  context = StageContext(
    shared, prompt_len=sizes.prompt_len, response_len=sizes.response_len
  )

  def evaluate(name, evaluator, state, step):
    del step
    policy = language_model.LanguageModel(
      config.stage,
      engine,
      params_of(state),
      template=policy_settings.template_of('', config.stage),
      response_len=sizes.response_len,
    )
    with named(name):
      results = outcome(evaluator, {policy.name: policy}).results
    return metrics(results, f'eval/{name}', policy.name)

  found = []
  for name, fields in due.items():
    with named(name):
      made = make(context, fields)
    found.append((fields['every'], functools.partial(evaluate, name, made)))
  return found


def metrics(results: Mapping, prefix: str, policy: str) -> dict[str, float]:
  """Returns the summaries of one policy as metrics.

  {'score': {'policies': {'ppo': {'value': 1.0, ...}}}} gives
  {'eval/NAME/score': 1.0}; undefined values are left out.
  """
  found = {}
  for path, summary in evaluator_lib.summaries(results):
    if summary['value'] is not None:
      names = [key for key in path if key not in (policy, 'policies')]
      found['/'.join([prefix, *names])] = summary['value']
  return found
