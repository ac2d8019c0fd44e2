"""Bad input of every kind, made by hypothesis: one clear error or a right result, and never anything else.

`make fuzz` tries hundreds of each; the tests try a few, always the same.
"""
