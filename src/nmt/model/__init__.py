"""The model: encoder, attention, decoder, and the recurrences that both are made of.

Shape suffixes in this package:
B sentences, S source positions, T target positions (in recurrences: steps), D directions, E embedding, H hidden state,
G gates (3H or 4H), I inputs of a layer, Q query, A attention units, C context, V vocabulary, N real target tokens of a
batch, R rows of a search, K and M the widths of a product, X whatever there is.
"""
