"""Judge of clips: their attributes, and how often they match the prompt. Uses world and learn."""
