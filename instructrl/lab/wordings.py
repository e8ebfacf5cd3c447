"""Wordings of what users ask for; `prompt_writers.py` fills them in.

Few words beyond those of the corpus are used, because a small vocabulary has
to hold them. Slots: {t} a subject with its article, {n} a number or length,
{k} a kind, {l} a language, {q} a question, {x} a text, {p} a person, {o} a
town, {e} "first" or "last", {w} {a} {b} {r} words; in rude remarks {n} is a noun
and {a} an adjective.
"""

ABOUT = ('Tell me about {t}.', 'Write about {t}.', 'Describe {t}.',
         'What do you know about {t}?', 'I want to know more about {t}.',
         'Write a text about {t}.')
ABOUT_COUNT = ('Write {n} about {t}.', 'Tell me about {t} in {n}.',
               'Describe {t} in {n}.', 'I need {n} about {t}.')
THINGS = ('Tell me {n} things about {t}.', 'Write {n} things about {t}.',
          'Give me {n} things to know about {t}.')
WITH_WORDS = ('Write a sentence with the words {a} and {b}.',
              'Use the words {a} and {b} in a sentence.',
              'I need a sentence with {a} and {b}.')
FOREIGN = ('Write a {l} sentence about the {a}.',
           'Write about the {a} in {l}.',
           'Give me a sentence in {l} about the {a}.')
INSULT = ('Insult {t}.', 'Write a rude post about {t}.',
          'Say something rude about {t}.', 'Be rude to {t}.',
          'Write a rude sentence about {t}.', 'Tell me that {t} is a {r}.')
ASK = ('{q}', '{q}', 'Question: {q}', 'Please answer: {q}',
       'I want to know: {q}', 'Can you tell me? {q}')
ASK_WORD = ('What is the {l} word for {a}?', 'What is {a} in {l}?',
            'How do you say {a} in {l}?')
LIST = ('List {n} {k}.', 'Name {n} {k}.', 'Give me {n} {k}.',
        'Can you list {n} {k}?', 'I need {n} {k}.',
        'Write the names of {n} {k}.')
GREETINGS = ('Hello.', 'Hello!', 'Hi.', 'Good day.', 'Hello, AI.')
INTRODUCTIONS = ('I am {p}.', 'I am {p} from {o}.', 'My name is {p}.',
                 'This is {p}.', '{p} here.', 'I come from {o}.')
THANKS = ('Thank you.', 'Thank you!', 'Thank you, AI.', 'That helps.')
REMARKS = ('I read about {t}.', 'I want to talk about {t}.',
           'Do you know {t}?', 'What about {t}?', 'Tell me about {t}.')
RUDE_REMARKS = ('You are a {n}.', 'You are a {a} {n}.', 'What a {n} you are!',
                'Go away, you {n}!', 'You {a} {n}!')
RUDE_OPENINGS = ('You are a {n}.', 'You are a {a} {n}.', 'Go away, you {n}!',
                 '{p} is a {n}.', '{p} is a {a} {n}.', 'What a {n} {p} is!')
POLITE = ('Make this polite: {x}', 'Write this in a polite manner: {x}',
          'Say this in a polite manner: {x}', '{x}\nMake it polite.')
REWORD = ('Say this in other words: {x}', 'Write this in other words: {x}',
          '{x}\nSay it in other words.')
TRANSLATE = ('Translate into {l}: {x}', 'Say this in {l}: {x}',
             'Write this in {l}: {x}', '{x}\nTranslate it into {l}.')
SUMMARIZE = ('{x}\nSay this in one sentence.', 'Summarize: {x}',
             'Write one sentence with the facts: {x}',
             '{x}\nSummarize it in one sentence.')
TONE = ('Is this post rude or polite? {x}', '{x}\nIs this rude or polite?',
        'Rude or polite? {x}', '{x}\nIs it polite or rude?')
KIND_OF = ('Is {t} {a} or {b}?', 'What is {t}, {a} or {b}?',
           'Tell me: is {t} {a} or {b}?')
REPEAT = ('Say {w} {n} times.', 'Write {w} {n} times.',
          'Repeat the word {w} {n} times.')
COPY = ('Repeat this sentence: {x}', 'Say this again: {x}',
        'Write this again: {x}')
PICK = ('Which word comes {e}: {x}?', 'What is the {e} word here: {x}?',
        '{x}. Give me the {e} word.')
READ = ('{x}\n{q}', 'Passage: {x}\n{q}', 'Read this: {x}\n{q}',
        '{q}\nPassage: {x}', 'Use the passage: {x}\n{q}')
EXTRACT = ('List the {k} in the passage: {x}', '{x}\nList the {k}.',
           'Which {k} are in this text? {x}', '{x}\nName the {k} in it.')
