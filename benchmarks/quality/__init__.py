"""What a step profile saves and what it costs: frames against those of `exact`, through a server."""
