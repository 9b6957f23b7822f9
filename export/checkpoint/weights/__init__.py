"""The files of a component's weights, by their headers."""
