"""What is measured, and how. Run on a quiet machine; every command ends in one JSON line."""
