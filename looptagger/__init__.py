"""looptagger tags archives of music loops with their roles: percussion, bass, chord, melody, fx, voice."""
