"""What one server answers: these tests share one server, and leave it as it was."""
