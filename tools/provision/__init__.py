"""Make what the demo and the tests need: real vLLM on CPU, a model, an image and a Docker engine.

Standard library only. Every step is kept under one cache folder, is done once, and is begun again
after an interrupt; every download says its size before it starts.
"""
