"""The protocol of rewards: episodes -> one number each.

B episodes.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Protocol

import numpy as np

from instructrl.data.records import Prompt
from instructrl.tokenizers.protocol import AnyTokenizer


@dataclasses.dataclass(frozen=True)
class Episodes:
  """A batch of prompts with the responses of the policy.

  Attributes:
    prompts: [B] records.
    prompt_tokens: [B] lists of token ids, as the policy reads the prompts.
    response_tokens: [B] lists of token ids without padding; a response that
      ended has EOS as its last token.
    tok: the tokenizer of the policy.
  """

  prompts: Sequence[Prompt]
  prompt_tokens: Sequence[list[int]]
  response_tokens: Sequence[list[int]]
  tok: AnyTokenizer

  @functools.cached_property
  def responses(self) -> list[str]:
    """[B] texts of the responses, decoded when first used."""
    return [self.tok.decode(tokens) for tokens in self.response_tokens]


class Reward(Protocol):
  """Scores a batch of episodes.

  A reward model that shares the policy's tokenizer is not called through this
  protocol: PPO scores with it on the device, from the tokens that are there.
  """

  def __call__(self, episodes: Episodes) -> np.ndarray:
    """Returns [B] float32, a finite score of each episode."""
