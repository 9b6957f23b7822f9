"""The command `wan-t2v`: arguments, progress, files. Uses the library; the library never uses it."""
