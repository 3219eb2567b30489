"""How the paper's nets are trained: objectives, loops, and one recipe per kind of net."""
