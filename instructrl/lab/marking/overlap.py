"""Overlap of two lists of words."""


def longest_common(a: list[str], b: list[str]) -> int:
  """Returns the length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for word in a:
    previous = row
    row = [0]
    for j, other in enumerate(b):
      row.append(
        previous[j] + 1 if word == other else max(previous[j + 1], row[j])
      )
  return row[-1]
