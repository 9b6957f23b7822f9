"""What a clip shows, and how often it is what the prompt asks for. Uses world and learn."""
