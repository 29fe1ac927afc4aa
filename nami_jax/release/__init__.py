"""Releases of NAMI, as published for PyTorch, and our folders of converted weights: from either to the other.

`released_parts` finds and describes a release's files, `pickles` opens those that are pickles, `networks` says what
must be in them; `conversion` and `exporting` put a folder together from that, by way of `folders`.
"""
