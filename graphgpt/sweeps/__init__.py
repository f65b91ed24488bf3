"""Many runs, their settings searched."""
