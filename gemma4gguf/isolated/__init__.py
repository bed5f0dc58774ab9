"""The engine in a process of its own: a fault of llama.cpp ends that process, not this one.

In: prompts whose pictures and sound are read, and options. Out: the same chunks. `engine` is this side, with `hearing`
for sound that is still being made and `process` for what they ask; `worker` is the other side, `wire` what goes between
them. Knows neither messages nor templates.
"""
