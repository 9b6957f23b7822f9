"""Tests of the image: its build, its programs, and the commands that a pod runs in it."""
