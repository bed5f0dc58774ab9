"""What an answer must look like: a JSON schema or tools -> a grammar -> an automaton -> the tokens that may come next.

In: what a caller asks for, untrusted. Out: for every step, whether a token fits. Knows no model and no llama.cpp.
"""
