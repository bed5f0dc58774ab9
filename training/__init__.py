"""Stages of the tiny model's training, in the order they run: config, tokenizer, pictures, speech, phrases, texts,
videos, watching, tasks, batches, mixture, network (on passes), optimizer, drafter, scoring, export, samples.
"""
