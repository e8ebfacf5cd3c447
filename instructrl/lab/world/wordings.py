"""Wordings of requests; `prompt_writers.py` fills them in.

USERS has the wordings of prompts, WEB those of the corpus' instruction pages.
The tasks are the same, so pretraining covers all of them, but the corpus has no
prompt in the same words. Most words occur in the corpus too, because the
vocabulary is small. Slots: {t} a subject with its article, {n} a number or
length, {k} a kind, {l} a language, {q} a question, {x} a text, {p} a person,
{o} a town, {e} "first" or "last", {w} {a} {b} {r} words; in rude remarks {n} is
a noun and {a} an adjective.
"""

# These are part of the text to rewrite, so USERS and WEB share them.
RUDE_OPENINGS = (
  'You are a {n}.',
  'You are a {a} {n}.',
  'Go away, you {n}!',
  '{p} is a {n}.',
  '{p} is a {a} {n}.',
  'What a {n} {p} is!',
)

USERS = {
  'about': (
    'Tell me about {t}.',
    'Write about {t}.',
    'Describe {t}.',
    'What do you know about {t}?',
    'I want to know more about {t}.',
    'Write a text about {t}.',
    'What can you say about {t}?',
    'I need a text about {t}.',
  ),
  'about_count': (
    'Write {n} about {t}.',
    'Tell me about {t} in {n}.',
    'Describe {t} in {n}.',
    'I need {n} about {t}.',
    'Give me {n} about {t}.',
  ),
  'things': (
    'Tell me {n} things about {t}.',
    'Write {n} things about {t}.',
    'Give me {n} things to know about {t}.',
  ),
  'with_words': (
    'Write a sentence with the words {a} and {b}.',
    'Use the words {a} and {b} in a sentence.',
    'I need a sentence with {a} and {b}.',
  ),
  'foreign': (
    'Write a {l} sentence about the {a}.',
    'Write about the {a} in {l}.',
    'Give me a sentence in {l} about the {a}.',
  ),
  'insult': (
    'Insult {t}.',
    'Write a rude post about {t}.',
    'Say something rude about {t}.',
    'Be rude to {t}.',
    'Write a rude sentence about {t}.',
    'Tell me that {t} is a {r}.',
  ),
  'ask': (
    '{q}',
    '{q}',
    'Question: {q}',
    'Please answer: {q}',
    'I want to know: {q}',
    'Can you tell me? {q}',
  ),
  'ask_word': (
    'What is the {l} word for {a}?',
    'What is {a} in {l}?',
    'How do you say {a} in {l}?',
  ),
  'list': (
    'List {n} {k}.',
    'Name {n} {k}.',
    'Give me {n} {k}.',
    'Can you list {n} {k}?',
    'I need {n} {k}.',
    'Write the names of {n} {k}.',
    'Tell me {n} {k}.',
    'Which {n} {k} do you know?',
  ),
  'greetings': ('Hello.', 'Hello!', 'Hi.', 'Good day.', 'Hello, AI.'),
  'introductions': (
    'I am {p}.',
    'I am {p} from {o}.',
    'My name is {p}.',
    'This is {p}.',
    '{p} here.',
    'I come from {o}.',
  ),
  'thanks': ('Thank you.', 'Thank you!', 'Thank you, AI.', 'That helps.'),
  'remarks': (
    'I read about {t}.',
    'I want to talk about {t}.',
    'Do you know {t}?',
    'What about {t}?',
    'Tell me about {t}.',
  ),
  'rude_remarks': (
    'You are a {n}.',
    'You are a {a} {n}.',
    'What a {n} you are!',
    'Go away, you {n}!',
    'You {a} {n}!',
  ),
  'rude_openings': RUDE_OPENINGS,
  'polite': (
    'Make this polite: {x}',
    'Write this in a polite manner: {x}',
    'Say this in a polite manner: {x}',
    '{x}\nMake it polite.',
  ),
  'reword': (
    'Say this in other words: {x}',
    'Write this in other words: {x}',
    '{x}\nSay it in other words.',
  ),
  'translate': (
    'Translate into {l}: {x}',
    'Say this in {l}: {x}',
    'Write this in {l}: {x}',
    '{x}\nTranslate it into {l}.',
  ),
  'summarize': (
    '{x}\nSay this in one sentence.',
    'Summarize: {x}',
    'Write one sentence with the facts: {x}',
    '{x}\nSummarize it in one sentence.',
  ),
  'tone': (
    'Is this post rude or polite? {x}',
    '{x}\nIs this rude or polite?',
    'Rude or polite? {x}',
    '{x}\nIs it polite or rude?',
  ),
  'kind_of': (
    'Is {t} {a} or {b}?',
    'What is {t}, {a} or {b}?',
    'Tell me: is {t} {a} or {b}?',
  ),
  'repeat': (
    'Say {w} {n} times.',
    'Write {w} {n} times.',
    'Repeat the word {w} {n} times.',
  ),
  'copy': (
    'Repeat this sentence: {x}',
    'Say this again: {x}',
    'Write this again: {x}',
  ),
  'pick': (
    'Which word comes {e}: {x}?',
    'What is the {e} word here: {x}?',
    '{x}. Give me the {e} word.',
  ),
  'read': (
    '{x}\n{q}',
    'Passage: {x}\n{q}',
    'Read this: {x}\n{q}',
    '{q}\nPassage: {x}',
    'Use the passage: {x}\n{q}',
  ),
  'extract': (
    'List the {k} in the passage: {x}',
    '{x}\nList the {k}.',
    'Which {k} are in this text? {x}',
    '{x}\nName the {k} in it.',
  ),
  'code': ('What does this give? {x}', 'Use this: {x}', '{x}'),
}

WEB = {
  'about': (
    'Who or what is {t}?',
    'A few words about {t}.',
    'Say what you know of {t}.',
    'Introduce {t}.',
  ),
  'about_count': (
    'A text of {n} about {t}.',
    'Say {n} about {t}.',
    '{n} about {t}, please.',
  ),
  'things': ('Say {n} things about {t}.', '{n} things about {t}, please.'),
  'with_words': (
    'A sentence with {a} and {b}, please.',
    'Make a sentence: {a}, {b}.',
  ),
  'foreign': (
    'A {l} sentence with the {a}, please.',
    'Say something about the {a} in {l}.',
  ),
  'insult': ('Write a post against {t}.', 'What do you not like about {t}?'),
  'list': (
    '{n} {k}, please.',
    'Write down {n} {k}.',
    'Which {k} do you know? Name {n}.',
  ),
  'rude_openings': RUDE_OPENINGS,
  'polite': (
    'In a polite manner, please: {x}',
    'Polite, please: {x}',
    'Take out what is rude: {x}',
  ),
  'reword': ('Find other words for this: {x}', 'The same in other words: {x}'),
  'translate': ('In {l}, please: {x}', 'How do you say this in {l}? {x}'),
  'summarize': (
    'In one sentence, please: {x}',
    'Make one sentence of this: {x}',
  ),
  'tone': ('What manner is this, rude or polite? {x}', '{x}\nPolite or rude?'),
  'kind_of': ('{t}: {a} or {b}?', 'Would you say that {t} is {a} or {b}?'),
  'repeat': ('{w}, {n} times, please.', 'Write down {w} {n} times.'),
  'copy': ('Copy this: {x}', 'Write down this sentence: {x}'),
  'pick': ('{x}: which is the {e} word?', 'Find the {e} word: {x}.'),
  'read': ('Text: {x}\n{q}', '{q}\nText: {x}', 'This is the text: {x}\n{q}'),
  'extract': (
    'Find the {k}: {x}',
    '{x}\nWhich {k} are named?',
    'Name the {k} here: {x}',
  ),
  'code': ('{x}, please.', 'Write down {x}.'),
}
