"""Weight files of a component, read by their safetensors headers."""
