"""One example of tokens, against literals."""

import numpy as np
import pytest

from instructrl.data import tasks
from instructrl.data.records import Demonstration, Document, Prompt

PAD, BOS, EOS, USER, ASSISTANT = 0, 1, 2, 4, 5


class Letters:
  """A tokenizer of single letters: a is 10, b is 11, ..."""

  pad_id, bos_id, eos_id = PAD, BOS, EOS

  def encode(self, text):
    return [10 + ord(letter) - ord('a') for letter in text]

  def document(self, text):
    return [BOS, *self.encode(text), EOS]

  def prompt(self, text, turns=()):
    return [BOS, USER, *self.encode(''.join(turns) or text), ASSISTANT]

  def plain(self, text):
    return [BOS, *self.encode(text)]

  def response(self, text):
    return [*self.encode(text), EOS]


TOK = Letters()


def demonstration(prompt, response):
  return Demonstration(
    Prompt('p1', prompt, 'u1', 'open_qa', 'train'), response, 'labeler'
  )


def test_layouts():
  assert TOK.document('ab') == [BOS, 10, 11, EOS]
  assert tasks.chat_prompt(TOK, 'ab') == [BOS, USER, 10, 11, ASSISTANT]
  assert tasks.plain_prompt(TOK, 'ab') == [BOS, 10, 11]
  assert tasks.response_tokens(TOK, 'ab', 3) == [10, 11, EOS]
  assert tasks.response_tokens(TOK, 'abc', 3) == [10, 11, 12]
  assert tasks.response_tokens(TOK, '', 3) == [EOS]
  with pytest.raises(ValueError, match='max_len is 0'):
    tasks.response_tokens(TOK, 'a', 0)


def test_a_dialogue_is_laid_out_by_its_turns():
  asked = Prompt('p', 'abc', 'u', 'chat', 'train', turns=('a', 'b', 'd'))
  assert tasks.chat_prompt(TOK, asked) == [BOS, USER, 10, 11, 13, ASSISTANT]
  example = tasks.sft_example(Demonstration(asked, 'e', 'labeler'), TOK, 10)
  assert example.tokens.tolist() == [BOS, USER, 10, 11, 13, ASSISTANT, 14]


def test_what_follows_the_first_eos_is_cut():
  assert tasks.cut_at_eos([10, EOS, 11, EOS], EOS) == [10, EOS]
  assert tasks.cut_at_eos([10, 11], EOS) == [10, 11]
  assert tasks.cut_at_eos((EOS, 11), EOS) == [EOS]


def test_fits():
  assert tasks.fits([1, 2, 3], 3) and not tasks.fits([1, 2, 3], 2)


def test_a_document_is_predicted_but_for_its_first_token():
  example = tasks.lm_example([BOS, 10, 11, EOS])
  assert example.tokens.tolist() == [BOS, 10, 11]
  assert example.targets.tolist() == [10, 11, EOS]
  assert example.loss_mask.tolist() == [True, True, True]
  assert example.tokens.dtype == np.int32 and example.loss_mask.dtype == bool


def test_of_a_demonstration_the_response_and_eos_are_predicted():
  example = tasks.sft_example(demonstration('ab', 'cd'), TOK, 16)
  assert example.tokens.tolist() == [BOS, USER, 10, 11, ASSISTANT, 12, 13]
  assert example.targets.tolist() == [USER, 10, 11, ASSISTANT, 12, 13, EOS]
  assert example.loss_mask.tolist() == [False] * 4 + [True] * 3


def test_a_long_response_loses_its_end():
  long = demonstration('ab', 'cdefg')
  example = tasks.sft_example(long, TOK, 7)
  assert len(example.tokens) == 7
  assert example.targets.tolist()[-3:] == [12, 13, 14]
  example = tasks.sft_example(long, TOK, 7, response_len=2)
  assert example.targets.tolist()[4:] == [12, 13]
  example = tasks.sft_example(long, TOK, 5)
  assert example.targets.tolist() == [USER, 10, 11, ASSISTANT, 12]
  assert example.loss_mask.tolist() == [False] * 4 + [True]
  with pytest.raises(ValueError, match="prompt 'p1' has 5 tokens, there are 4"):
    tasks.sft_example(long, TOK, 4)


@pytest.mark.parametrize(
  'tokens, loss_from', [([1, 2], 0), ([1, 2], 2), ([1], 1), ([], 1)]
)
def test_an_example_without_a_target_is_refused(tokens, loss_from):
  with pytest.raises(ValueError, match='must leave a token to predict'):
    tasks.lm_example(tokens, loss_from)


def test_packing_literal():
  # Lengths 3, 2, 2, 1 in rows of 4: the fourth goes back to the first row.
  sequences = [[BOS, 10, 11, EOS], [BOS, 12, EOS], [BOS, 13, EOS], [20, 21]]
  rows = tasks.pack_rows((tasks.lm_example(s) for s in sequences), 4)
  assert rows['tokens'].tolist() == [[BOS, 10, 11, 20], [BOS, 12, BOS, 13]]
  assert rows['targets'].tolist() == [[10, 11, EOS, 21], [12, EOS, 13, EOS]]
  assert rows['segment_ids'].tolist() == [[1, 1, 1, 2], [1, 1, 2, 2]]
  assert rows['positions'].tolist() == [[0, 1, 2, 0], [0, 1, 0, 1]]
  assert rows['loss_mask'].all()
  assert tasks.fullness(rows) == 1.0


def test_packing_pads_with_what_does_not_count():
  rows = tasks.pack_rows([tasks.lm_example([7, 8, 9], loss_from=2)], 4)
  assert rows['tokens'].tolist() == [[7, 8, 0, 0]]
  assert rows['targets'].tolist() == [[8, 9, 0, 0]]
  assert rows['loss_mask'].tolist() == [[False, True, False, False]]
  assert rows['segment_ids'].tolist() == [[1, 1, 0, 0]]
  assert rows['positions'].tolist() == [[0, 1, 0, 0]]
  assert {k: v.dtype.name for k, v in rows.items()} == {
    'tokens': 'int32',
    'targets': 'int32',
    'loss_mask': 'bool',
    'positions': 'int32',
    'segment_ids': 'int32',
  }
  assert tasks.fullness(rows) == 0.5


def test_a_long_document_is_split_and_loses_no_target():
  rows = tasks.pack_rows([tasks.lm_example([1, 2, 3, 4, 5, 6])], 2)
  assert rows['tokens'].tolist() == [[1, 2], [3, 4], [5, 0]]
  assert rows['targets'].tolist() == [[2, 3], [4, 5], [6, 0]]
  assert rows['positions'].tolist() == [[0, 1], [0, 1], [0, 0]]
  assert rows['segment_ids'].tolist() == [[1, 1], [1, 1], [1, 0]]


def test_packing_keeps_every_example_whole_and_in_its_place():
  rng = np.random.default_rng(0)
  sequences = [
    rng.integers(3, 99, rng.integers(2, 60)).tolist() for _ in range(2000)
  ]
  rows = tasks.pack_rows(map(tasks.lm_example, sequences), 128)
  found = []
  for tokens, targets, segments, positions in zip(
    *(rows[k] for k in ('tokens', 'targets', 'segment_ids', 'positions'))
  ):
    for segment in range(1, segments.max() + 1):
      where = np.flatnonzero(segments == segment)
      assert (np.diff(where) == 1).all()
      assert positions[where].tolist() == list(range(len(where)))
      found.append([*tokens[where].tolist(), int(targets[where[-1]])])
  assert sorted(found) == sorted(sequences)
  assert tasks.fullness(rows) > 0.94
  again = tasks.pack_rows(map(tasks.lm_example, sequences), 128)
  for name, values in rows.items():
    np.testing.assert_array_equal(values, again[name])


def test_rows_stand_in_the_order_of_their_longest_examples():
  sequences = [[5] * 3, [6] * 4, [7] * 2, [8] * 5]  # 2, 3, 1, 4 positions
  rows = tasks.pack_rows(map(tasks.lm_example, sequences), 4)
  assert rows['tokens'].tolist() == [[5, 5, 0, 0], [6, 6, 6, 7], [8, 8, 8, 8]]


def test_the_fullest_row_is_taken_that_has_room():
  sequences = [[n] * (n + 1) for n in (5, 6, 7, 2, 1)]
  rows = tasks.pack_rows(map(tasks.lm_example, sequences), 8)
  assert rows['tokens'].tolist() == [
    [5] * 5 + [0] * 3,
    [6] * 6 + [2] * 2,
    [7] * 7 + [1],
  ]


def test_packing_refuses_nonsense():
  with pytest.raises(ValueError, match='nothing to pack'):
    tasks.pack_rows([], 4)
  with pytest.raises(ValueError, match='row_len is 0'):
    tasks.pack_rows([tasks.lm_example([1, 2])], 0)


def test_rows_of_records():
  rows = tasks.document_rows([Document('d', 'ab', 'forum', 'train')], TOK, 4)
  assert rows['tokens'].tolist() == [[BOS, 10, 11, 0]]
  assert rows['targets'].tolist() == [[10, 11, EOS, 0]]
  rows = tasks.sft_rows(
    [demonstration('a', 'b'), demonstration('a', 'c')], TOK, 10
  )
  assert rows['tokens'].tolist() == [
    [BOS, USER, 10, ASSISTANT, 11, BOS, USER, 10, ASSISTANT, 12]
  ]
  assert rows['loss_mask'].tolist() == [[False, False, False, True, True] * 2]
  assert rows['segment_ids'].tolist() == [[1] * 5 + [2] * 5]


def test_ranking_literal():
  element = tasks.ranking_example(
    [BOS, 10],
    [[11, EOS, 12], [EOS], [13, 14]],
    [1, 0, 1],
    max_k=4,
    seq_len=9,
    eos_id=EOS,
  )
  assert element.tokens.tolist() == [BOS, 10, 11, EOS, EOS, 13, 14, 0, 0]
  assert element.segment_ids.tolist() == [-1, -1, 1, 1, 2, 3, 3, 0, 0]
  assert element.positions.tolist() == [0, 1, 2, 3, 2, 2, 3, 0, 0]
  assert element.last.tolist() == [3, 4, 6, 0]
  assert element.ranks.tolist() == [1, 0, 1, 0]
  assert element.valid.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
  'responses, ranks, reason',
  [
    ([[1]], [0], 'there are 1 responses, there must be 2 to 3'),
    ([[1]] * 4, [0] * 4, 'there are 4 responses, there must be 2 to 3'),
    ([[1], [2]], [0], 'there are 1 ranks for 2 responses'),
    ([[1], []], [0, 1], 'response 1 has no tokens'),
    ([[1], [3] * 4], [0, 1], 'prompt and responses have 7 tokens, the limit'),
  ],
)
def test_bad_rankings(responses, ranks, reason):
  with pytest.raises(ValueError, match=reason):
    tasks.ranking_example(
      [BOS, 10], responses, ranks, max_k=3, seq_len=5, eos_id=EOS
    )


def test_prompts_are_padded_on_the_left():
  element = tasks.prompt_example([BOS, 10, 11], 5, index=7)
  assert element.tokens.tolist() == [0, 0, BOS, 10, 11]
  assert element.mask.tolist() == [False, False, True, True, True]
  assert element.index == 7 and element.index.dtype == np.int32
  whole = tasks.prompt_example([BOS, 10], 2)
  assert whole.tokens.tolist() == [BOS, 10] and whole.mask.all()
  for tokens in ([], [1, 2, 3]):
    with pytest.raises(ValueError, match=f'has {len(tokens)} tokens'):
      tasks.prompt_example(tokens, 2)


def test_pad_is_what_the_caller_says():
  element = tasks.prompt_example([BOS], 2, pad_id=9)
  assert element.tokens.tolist() == [9, BOS]
  element = tasks.ranking_example(
    [BOS], [[EOS], [10, EOS]], [0, 1], max_k=2, seq_len=5, eos_id=EOS, pad_id=9
  )
  assert element.tokens.tolist() == [BOS, EOS, 10, EOS, 9]
