"""Export forms of the checkpoint's modules: same weights and same maths, spelled so that compilers can read them."""
