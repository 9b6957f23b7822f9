"""Stand-ins that behave, and what several kinds of tests build on. Imports no test."""
