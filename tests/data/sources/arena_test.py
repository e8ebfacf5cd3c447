"""Chatbot Arena: both published forms, ties, and votes after more turns."""

import json

import pytest

from instructrl.data.sources import lookup
from tests.data.sources import source_files


def conversation(number, winner, turns=1, asked='Why?'):
  return {
    'question_id': f'q{number}',
    'model_a': 'vicuna-13b',
    'model_b': 'alpaca-13b',
    'winner': winner,
    'judge': 'arena_user_1',
    **{
      f'conversation_{side}': [
        {'role': 'user', 'content': asked},
        {'role': 'assistant', 'content': f'Because {side}'},
      ]
      * turns
      for side in 'ab'
    },
    'turn': turns,
    'anony': True,
    'language': 'English',
    'tstamp': 1682351591.1,
  }


def preference(number, a, b, tie):
  return {
    'id': number,
    'model_a': 'gpt-4',
    'model_b': 'claude-2',
    'prompt': json.dumps(['Why?']),
    'response_a': json.dumps(['A']),
    'response_b': json.dumps(['B']),
    'winner_model_a': a,
    'winner_model_b': b,
    'winner_tie': tie,
  }


def test_conversations(tmp_path):
  votes = ['model_a', 'model_b', 'tie', 'tie (bothbad)']
  rows = [conversation(i, vote) for i, vote in enumerate(votes)]
  rows.append(conversation(9, 'model_a', turns=2))
  path = tmp_path / 'train.jsonl'
  found = source_files.load('chatbot_arena:PATH', path, rows)
  assert [r.ranks for r in found.records] == [(0, 1), (1, 0), (0, 0), (0, 0)]
  first = found.records[0]
  assert first.sources == ('vicuna-13b', 'alpaca-13b')
  assert first.labeler == 'arena_user_1' and first.prompt.id == 'arena/q0'
  assert sum(found.dropped.values()) == 1  # two turns
  kept = lookup.load(f'chatbot_arena:{path}?bothbad=drop').records
  assert len(kept) == 3


def test_preferences(tmp_path):
  rows = [
    preference(1, 1, 0, 0),
    preference(2, 0, 1, 0),
    preference(3, 0, 0, 1),
  ]
  path = tmp_path / 'train.jsonl'
  found = source_files.load('chatbot_arena:PATH', path, rows)
  assert [r.ranks for r in found.records] == [(0, 1), (1, 0), (0, 0)]
  with pytest.raises(lookup.SourceError, match='has 2 winners'):
    source_files.load(
      'chatbot_arena:PATH?strict=true', path, [preference(1, 1, 1, 0)]
    )
  with pytest.raises(lookup.SourceError, match="got 'nobody'"):
    source_files.load(
      'chatbot_arena:PATH?strict=true', path, [conversation(1, 'nobody')]
    )
