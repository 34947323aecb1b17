"""What methods share. A method never imports another method."""
