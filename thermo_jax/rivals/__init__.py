"""Models and features of others, with which ours are compared (SPEC section 12).

Each file is the smallest faithful version of a published method. Its docstring says after whom it
is, what is the same, and what is different.
"""
