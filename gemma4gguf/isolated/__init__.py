"""The engine in a process of its own: a fault of llama.cpp ends that process, not this one.

In: prompts whose pictures and sound are read, and options. Out: the same chunks. `engine` is this side, `worker` the
other, `wire` what goes between them. Knows neither messages nor templates.
"""
