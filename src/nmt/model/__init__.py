"""The model: encoder, attention, decoder, and the recurrences that both are made of.

Shape suffixes in this package:
B sentences, S source positions, T target positions, D directions, E embedding, H hidden state, G gates (3H or 4H),
A attention units, C context, V vocabulary, N real target tokens of a batch.
"""
