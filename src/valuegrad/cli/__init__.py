"""The command line: flags to calls, results to tables or JSON, errors to exit codes."""
