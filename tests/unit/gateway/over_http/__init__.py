"""Tests of the whole gateway, over HTTP: a job from its request to its files."""
