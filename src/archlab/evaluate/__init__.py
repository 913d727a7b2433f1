"""What is measured of a trained arm, and how sure one may be of it."""
