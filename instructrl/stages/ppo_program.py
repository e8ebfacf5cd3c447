"""PPO as jitted functions with layouts, before there are data or parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import packing
from instructrl.rewards import rewards_settings
from instructrl.runtime import sharding
from instructrl.stages import build
from instructrl.stages import lm
from instructrl.stages import ppo_steps
from instructrl.stages.ppo_settings import Settings
from instructrl.types import PromptBatch

# Model -> its config field. The policy and the value model are trained.
MODELS = {
  'policy': 'model',
  'reference': 'reference_model',
  'reward': 'reward_model',
  'value': 'value_model',
}


class PPOProgram:
  """The functions of PPO and where their arrays live.

  Attributes:
    settings: the numbers of `config.ppo`.
    terms: the terms of `config.rewards`.
    layouts: layouts of the four models, see `MODELS`.
    state_shardings: shardings of the `TrainState`.
    seed: `config.train_seed`, as `generate` and `update` take it.
    generate, score, passes, finish, update: jitted, see `ppo_steps`; `passes`
      and `finish` do the work of `score` where a reward is a Python function.
      update's state is donated. The seed is an argument of `generate` and of
      `update`: runs that differ only by their seed share the compiled programs.
  """

  def __init__(
    self, config, mesh, *, vocab_size: int, eos_id: int, pad_id: int
  ):
    self._mesh = mesh
    self.seed = np.int64(config.train_seed).astype(np.int32)
    self.settings = s = Settings(**config.ppo.to_dict())
    self.terms = rewards_settings.read(config.rewards.to_dict())
    models = {
      name: build.make_model(config, vocab_size, field)
      for name, field in MODELS.items()
    }
    self.layouts = _layouts(config, mesh, models)
    self._tx = {
      name: build.make_optimizer(
        c,
        s.num_updates,
        self.layouts[name].frozen,
        warmup_steps=s.warmup_iterations * s.updates_per_iteration,
      )[0]
      for name, c in (
        ('policy', config.optimizer),
        ('value', config.value_optimizer),
      )
    }
    self.state_shardings = build.state_shardings(
      mesh, self._tx, self.layouts, ema=self.layouts['policy'], kl_coef=True
    )
    if config.offload.ema:
      self.state_shardings = dataclasses.replace(
        self.state_shardings,
        ema_params=sharding.on_host(mesh, self.state_shardings.ema_params),
      )
    whole = sharding.replicated(mesh)
    rows = sharding.batch_sharding(mesh)
    sampler = build.make_model(config, vocab_size, rules='generate')
    self.generate = jax.jit(
      ppo_steps.make_generate(sampler, s, eos_id=eos_id, pad_id=pad_id),
      out_shardings=rows,
    )
    weights = {name: term.weight for name, term in self.terms.items()}
    scored = (models['reference'], models['value'], models['reward'], s)
    self.score = jax.jit(
      ppo_steps.make_score(*scored, weights, eos_id=eos_id),
      out_shardings=(rows, whole),
    )
    self.passes = jax.jit(ppo_steps.make_passes(*scored), out_shardings=rows)
    self.finish = jax.jit(
      ppo_steps.make_finish(s, weights, eos_id=eos_id),
      out_shardings=(rows, whole),
    )
    self.update = jax.jit(
      ppo_steps.make_update(models['policy'], models['value'], s, self._tx),
      out_shardings=(self.state_shardings, whole),
      donate_argnums=0,
    )

  def names(self, kind: str) -> list[str]:
    """Returns the names of the reward terms of a kind."""
    return [name for name, term in self.terms.items() if term.kind == kind]

  def fresh_state(self, policy_params, value_params):
    """Returns the state before the first iteration."""
    return build.fresh_state(
      {'policy': policy_params, 'value': value_params},
      self._tx,
      ema_params=policy_params,
      kl_coef=self.settings.kl_coef,
    )

  @functools.cached_property
  def resident(self):
    """Abstract arrays that stay between steps, on devices and hosts."""
    inputs = [self.layouts[name].abstract for name in self._tx]
    state = build.abstract(
      jax.eval_shape(self.fresh_state, *inputs), self.state_shardings
    )
    return (
      state,
      self.layouts['reference'].abstract,
      {name: self.layouts['reward'].abstract for name in self.names('model')},
    )

  def trips(self) -> dict[str, int]:
    """Returns {function: trips of its loop over tokens or rows}.

    All episodes have the full length.
    """
    s = self.settings
    parts = lambda rows, size: (
      rows // packing.rows_at_once(rows, s.prompt_len + s.response_len, size)
    )
    scored = parts(s.batch_size, s.score_microbatch_size)
    return {
      'generate': s.response_len - 1,
      'score': scored,
      'passes': scored,
      'update': parts(s.minibatch_size, s.microbatch_size),
    }

  def functions(self) -> dict[str, tuple]:
    """Returns {name: (jitted function, its abstract arguments)}, in order."""
    s, layouts, mesh = self.settings, self.layouts, self._mesh
    state, reference, reward = self.resident
    shape = (s.batch_size, s.prompt_len)
    prompts = build.abstract_rows(
      mesh,
      PromptBatch(
        tokens=(shape, jnp.int32),
        mask=(shape, jnp.bool_),
        index=(shape[:1], jnp.int32),
      ),
    )
    as_rows = lambda tree: build.abstract_rows(
      mesh, jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    generate = (state.params['policy'], prompts, number, number)
    responses = as_rows(jax.eval_shape(self.generate, *generate))
    params = reference, reward, state.params['value']
    kl_coef = state.kl_coef
    if hosts := self.names('function'):
      passes = (*params, prompts, responses)
      *found, terms = as_rows([*jax.eval_shape(self.passes, *passes)])
      host = build.abstract_rows(
        mesh, dict.fromkeys(hosts, (shape[:1], jnp.float32))
      )
      finish = (kl_coef, prompts, responses, *found, terms | host)
      scoring = {
        'passes': (self.passes, passes),
        'finish': (self.finish, finish),
      }
    else:
      score = (*params, kl_coef, prompts, responses)
      scoring = {'score': (self.score, score)}
    last, arguments = list(scoring.values())[-1]
    rollout = as_rows(jax.eval_shape(last, *arguments)[0])
    rows = s.batch_size * s.num_ppo_epochs * s.ptx_examples_per_episode
    ptx = (
      lm.abstract_batch(mesh, rows, layouts['policy'].model.module.max_len)
      if s.ptx_coef
      else None
    )
    return {
      'generate': (self.generate, generate),
      **scoring,
      'update': (self.update, (state, rollout, ptx, number)),
    }


def _layouts(config, mesh, models) -> dict[str, build.Layout]:
  """Returns the layout of each model."""
  layouts = {
    name: (
      build.lm_layout
      if name in ('policy', 'reference')
      else build.scalar_layout
    )(model, mesh)
    for name, model in models.items()
  }
  if config.offload.reference:
    layout = layouts['reference']
    layouts['reference'] = dataclasses.replace(
      layout, shardings=sharding.on_host(mesh, layout.shardings)
    )
  return layouts
