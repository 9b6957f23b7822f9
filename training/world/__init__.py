"""The world of wan-mini: scenes, motion, captions, prompts, clips. numpy alone."""
