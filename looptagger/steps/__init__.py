"""The jobs' steps as functions over Arrow tables, and the process that decodes apart."""
