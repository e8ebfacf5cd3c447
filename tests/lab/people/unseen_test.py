"""Requests that only web pages have: what they ask for, and who has them."""

import re

import numpy as np
import pytest

from instructrl.data import records
from instructrl.lab.marking import judge
from instructrl.lab.people import prompt_writers
from instructrl.lab.people import prompts
from instructrl.lab.people import solver
from instructrl.lab.world import corpus
from instructrl.lab.world import specs
from instructrl.lab.world.facts import is_held_out
from instructrl.lab.world.facts import make_world

_CODE = re.compile(r'repeat\([^)]*\)')
KINDS = ('second_language', 'code')


@pytest.fixture(scope='module')
def world():
  return make_world(0, 'tiny')


def drawn(world, kind, count=300):
  rng = np.random.default_rng(0)
  return [prompt_writers.write(world, rng, kind) for _ in range(count)]


@pytest.mark.parametrize('kind', KINDS)
def test_a_perfect_answer_follows_the_request(world, kind):
  rng = np.random.default_rng(1)
  for text, spec in drawn(world, kind):
    prompt = records.Prompt('', text, '', kind, 'test', spec.to_json())
    answer = solver.answer(world, spec, rng)
    assert judge.assess(world, prompt, answer).task_done == 1.0, (text, answer)


def test_requests_have_words_of_the_second_language_only(world):
  language = world.language
  known = {*language.requests.values(), *language.reverse_lexicon}
  assert not {*language.requests.values()} & {*language.reverse_lexicon}
  for text, _ in drawn(world, 'second_language'):
    words = text.lower().replace(':', '').replace('.', '').split()
    assert set(words) <= known
    assert words[0] in language.requests.values()


def test_code_is_what_it_says(world):
  for text, spec in drawn(world, 'code'):
    name, inside = text.split('? ')[-1].split(': ')[-1].split('(')
    what, number = inside.rstrip(')').split(', ')
    assert spec.task == name
    assert what == spec.args['word' if name == 'repeat' else 'kind']
    assert number == specs.NUMBERS[spec.args['count']]


def test_pages_have_them_and_users_do_not(world):
  pages = '\n'.join(
    d.text for d in corpus.generate_documents(world, 2000, seed=0)
  )
  users = '\n'.join(p.text for p in prompts.generate_prompts(world, 2000, 0))
  orders = [word.capitalize() for word in world.language.requests.values()][:3]
  for mark in ('repeat(', 'list(', *orders):
    assert mark in pages
    assert mark not in users


def test_a_tenth_of_the_requests_is_in_no_page(world):
  pages = '\n'.join(
    d.text for d in corpus.generate_documents(world, 4000, seed=0)
  )
  found = set(_CODE.findall(pages))
  held_out, others = set(), set()
  for text, spec in drawn(world, 'code', 1000):
    place = held_out if is_held_out(spec.to_json()) else others
    place.update(_CODE.findall(text))
  assert held_out and not held_out & found
  assert others & found
