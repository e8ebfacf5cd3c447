"""Runs a tokenizer.json so that typed text never gives a special token.

With `encode_special_tokens`, the library does not match special tokens in text.
Then the special tokens of a layout are written as aliases: tokens of
non-characters that stand for them. The result is checked. If a special token
came out of typed text nevertheless, because its string is an ordinary piece of
the vocabulary too, the text is encoded in parts that are cut inside that
string. So the ids equal those of transformers for all text without special
tokens, also where a merge spans the border of layout and text.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import re
from typing import Any

import tokenizers

from instructrl.tokenizers import hf_json
from instructrl.tokenizers.layout import first_special
from instructrl.tokenizers.protocol import check_text

# Aliases are made of code points that are not characters. The alias without a
# number is a cut: it separates two parts of one text.
_OPEN, _CLOSE = '\ufdd0', '\ufdd1'
_CUT = _OPEN + _CLOSE
# Some tokenizers put a space before every part. Then one of these texts follows
# the cut, and is dropped with the cut.
_CONTEXTS = ('', '\n', '.', 'x')


class Encoder:
  """Encodes texts that mix special tokens and typed text.

  Attributes:
    tok: the library's tokenizer; it does not match special tokens.
    specials: id -> text of the special tokens.
    special_text: pattern that finds special tokens.
  """

  def __init__(
    self,
    tokenizer: Mapping[str, Any],
    protected: Iterable[str],
    unknown_id: int | None,
  ):
    """Prepares a tokenizer.json.

    Args:
      tokenizer: contents of tokenizer.json.
      protected: added tokens that are treated as special tokens.
      unknown_id: id that replaces text which the vocabulary cannot write, if
        the id has no other meaning.

    Raises:
      ValueError: the library rejects the tokenizer, or it cannot continue a
        text.
    """
    self._unknown_id, protected = unknown_id, set(protected)
    added = [
      {**token, 'special': token['special'] or token['content'] in protected}
      for token in tokenizer['added_tokens']
    ]
    specials = [token for token in added if token['special']]
    self.tok = hf_json.build({**tokenizer, 'added_tokens': added})
    self.tok.encode_special_tokens = True
    self.specials = {token['id']: token['content'] for token in specials}
    self.special_text = first_special(self.specials.values())
    self._alias_of = {
      text: f'{_OPEN}{i}{_CLOSE}' for i, text in self.specials.items()
    }
    aliases = [
      tokenizers.AddedToken(
        self._alias_of[token['content']],
        normalized=False,
        lstrip=token['lstrip'],
        rstrip=token['rstrip'],
      )
      for token in specials
    ]
    cut = tokenizers.AddedToken(_CUT, normalized=False)
    self.tok.add_tokens([*aliases, cut])
    self._special_of = {  # id of an alias -> id of the special token
      self.tok.token_to_id(self._alias_of[text]): i
      for i, text in self.specials.items()
    }
    self._cut_id = self.tok.token_to_id(_CUT)
    # Ids that `_restore` looks at one by one.
    self._notable = {self._cut_id, *self._special_of, *self.specials}
    self._contexts = self._find_contexts()

  def _find_contexts(self) -> list[tuple[str, list[int]]]:
    """Returns the contexts after which text is encoded as inside a text.

    Returns:
      (context, ids of a cut and the context), the best first.

    Raises:
      ValueError: there is no such context.
    """
    found = []
    for context in _CONTEXTS:
      ids = self.raw(_CUT + context)
      longer = self.raw(_CUT + context + 'a')
      rest = longer[len(ids) :]
      if longer[: len(ids)] == ids and rest:
        piece = self.tok.id_to_token(rest[0])
        if not piece.startswith((hf_json.SPACE, hf_json.BYTE_SPACE, ' ')):
          found.append((context, ids))
    if not found:
      raise ValueError(
        'this tokenizer cannot continue a text: it puts something between any '
        'two parts'
      )
    return found

  def raw(self, text: str) -> list[int]:
    """Returns the library's ids of a text."""
    return self.tok.encode(text, add_special_tokens=False).ids

  def encode(
    self, texts: Sequence[tuple[str, bool]], inside: bool = False
  ) -> list[int]:
    """Returns the ids of texts that follow each other.

    Args:
      texts: (text, whether it may have special tokens).
      inside: whether another text comes before.

    Raises:
      ValueError: a text holds a lone surrogate, which UTF-8 cannot write.
    """
    for text, _ in texts:
      check_text(text)
    if not any(text for text, _ in texts):
      return []
    for cuts in ('none', 'specials', 'all'):
      for context, dropped in self._contexts:
        text = self._written(texts, inside, cuts, _CUT + context)
        ids = self._restore(self.raw(text), dropped, cuts != 'none')
        if ids is not None:
          return ids
    raise ValueError(f'text cannot be encoded without special tokens: {texts}')

  def encode_batch(
    self, several: Sequence[Sequence[tuple[str, bool]]], inside: bool = False
  ) -> list[list[int]]:
    """Returns `encode` of each; the library uses all cores."""
    for texts in several:
      for text, _ in texts:
        check_text(text)
    context, dropped = self._contexts[0]
    written = [
      self._written(texts, inside, 'none', _CUT + context) for texts in several
    ]
    found = self.tok.encode_batch_fast(written, add_special_tokens=False)
    out = []
    for texts, encoding in zip(several, found):
      ids = None
      if any(text for text, _ in texts):
        ids = self._restore(encoding.ids, dropped, False)
      out.append(self.encode(texts, inside) if ids is None else ids)
    return out

  def _written(
    self, texts: Sequence[tuple[str, bool]], inside: bool, cuts: str, cut: str
  ) -> str:
    """Returns texts as the library gets them, with aliases and cuts."""
    return (cut if inside else '') + ''.join(
      self._aliased(part) if special else self._cut(part, cuts, cut)
      for part, special in texts
    )

  def _aliased(self, text: str) -> str:
    return self.special_text.sub(lambda found: self._alias_of[found[0]], text)

  def _cut(self, text: str, cuts: str, cut: str) -> str:
    """Returns typed text with cuts inside of typed aliases.

    Args:
      text: the text.
      cuts: 'specials' also cuts special tokens, 'all' cuts at each character.
      cut: what is inserted.
    """
    if cuts == 'all':
      return cut + cut.join(text) + cut
    places = {found.end() for found in re.finditer(_OPEN, text)}
    if cuts == 'specials':
      places |= {
        found.start() + 1 for found in self.special_text.finditer(text)
      }
    if not places:
      return text
    edges = [0, *sorted(places), len(text)]
    return cut.join(text[i:j] for i, j in itertools.pairwise(edges))

  def _restore(
    self, ids: Sequence[int], dropped: Sequence[int], may_be_unknown: bool
  ) -> list[int] | None:
    """Returns ids without aliases and cuts.

    Args:
      ids: of the library.
      dropped: ids of a cut and its context.
      may_be_unknown: whether the unknown token may come out of typed text.

    Returns:
      The ids; None if typed text gave a special token, or if a context was
      merged with the text after it.
    """
    out, i = [], 0
    n = len(dropped)
    if list(ids[:n]) == dropped and self._notable.isdisjoint(ids[n:]):
      return list(ids[n:])
    if self._notable.isdisjoint(ids):
      return list(ids)
    while i < len(ids):
      if ids[i] == self._cut_id:
        if list(ids[i : i + len(dropped)]) != list(dropped):
          return None
        i += len(dropped)
        continue
      unknown = may_be_unknown and ids[i] == self._unknown_id
      if ids[i] in self.specials and not unknown:
        return None
      out.append(self._special_of.get(ids[i], ids[i]))
      i += 1
    return out
