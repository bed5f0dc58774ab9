"""Stages of the tiny model's training, in the order they run: config, tokenizer, pictures, speech, phrases, texts,
batches, mixture, network (on kernels), optimizer, drafter, scoring, export, samples.
"""
