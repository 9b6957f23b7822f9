"""Procedural data of wan-mini: scenes, motion, captions, prompts, clips. Needs numpy only."""
