"""What tests and scripts share: the random stand-in checkpoint, scripted drafters, other runtimes to compare with."""
