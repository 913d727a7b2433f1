"""Trained runs made smaller and faster, and what that costs them."""
