"""What the units of a net stand for: single units, directions, the images and the patches that drive them."""
