"""Reading and writing: atomic files, tensors, JSON as it should be, what nobody vouches for."""
