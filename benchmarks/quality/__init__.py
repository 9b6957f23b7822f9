"""Time and quality of step profiles and precisions: frames compared with those of `exact`, through servers."""
