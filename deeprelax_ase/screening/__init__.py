"""Relaxation of very many crystals: columns in, columns out, and nothing lost on the way.

:mod:`~deeprelax_ase.screening.run` is what ``deeprelax screen`` does on one machine; the engines of many machines build
on :class:`~deeprelax_ase.screening.relaxing.TableRelaxer` alone.
"""
