"""What a command line says: settings, checked."""
