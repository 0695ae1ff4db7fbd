"""Folding: a steering at one strength as ordinary weights, in memory or in a checkpoint."""
