"""Tests of what the helm chart renders."""
