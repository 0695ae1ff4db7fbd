"""The walk through the architectures of transformers: build tiny, steer, fold, write down."""
